"""GGUF files that are served without a run.

In: files, and directories that contain some. Out: a file for each model, by the file's name.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from potstill.errors import ArtifactError, ConfigError
from potstill.models.files import find_gguf
from potstill.models.header import GgufHeader
from potstill.models.split import Shards

logger = logging.getLogger(__name__)


def named_files(given: Sequence[Path]) -> dict[str, Path]:
    """Return the file of each model by its name; the parts of a split one are joined in the cache.

    A directory stands for its models, without adapters and the like.

    Raises:
        ArtifactError: A file is missing or damaged, or a directory has no model.
        ConfigError: Two files have the same name.
    """
    files: dict[str, Path] = {}
    for path in (path for one in given for path in _files_of(one)):
        shards = Shards.of(path.name)
        name = shards.stem if shards else path.stem
        if name in files:
            raise ConfigError(
                f"two files have the name {name!r}",
                where=path,
                found=files[name],
                hint="name one of them with --set serve.paths.NAME=FILE",
            )
        files[name] = find_gguf(str(path)).path if shards else path
    return files


def _files_of(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    found = [one for one in sorted(path.glob("*.gguf")) if _is_model(one)]
    if not found:
        raise ArtifactError(
            "there is no model to serve",
            where=path,
            expected="one run, or GGUF files and directories that contain some",
            found="a directory without models" if path.is_dir() else "no such file",
        )
    yield from found


def _is_model(path: Path) -> bool:
    shards = Shards.of(path.name)
    if shards is not None and path.name != shards.names[0]:
        return False
    metadata = GgufHeader.read(path).metadata
    kind, architecture = (metadata.get(f"general.{key}") for key in ("type", "architecture"))
    # Encoders of images are "clip".
    if kind in (None, "model") and architecture != "clip":
        return True
    logger.info("%s is not served: it belongs to a model", path.name)
    return False
