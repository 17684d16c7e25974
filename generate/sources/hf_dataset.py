"""Rows of a Hugging Face data set, from the hub or a directory.

In: a source with `dataset`. Out: a stream of rows from memory-mapped Arrow, and a hash of the
content.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from generate.sources.config import SourceConfig
from generate.sources.rows import BATCH_ROWS, SourceRow, table_rows
from potstill.errors import ConfigError, first_line
from potstill.files import disk_errors, sha256_bytes, sha256_file
from potstill.hub import guard_client

DEFAULT_SPLIT = "train"


def read_dataset(config: SourceConfig, columns: frozenset[str]) -> Iterator[SourceRow]:
    """Yield a data set's rows, with at most one batch in memory.

    Args:
        columns: The columns that are read.

    Raises:
        ConfigError: The data set or its split cannot be loaded.
    """
    dataset = _load(config)
    known = [name for name in dataset.column_names if name in columns]
    table = dataset.select_columns(known or dataset.column_names).with_format("arrow")
    name = str(config.dataset)
    directory = _directory(config)
    source = name if directory is None else directory.resolve().name
    return table_rows(table.iter(BATCH_ROWS), lambda number: f"{name}, row {number}", source)


def digest_dataset(config: SourceConfig) -> str:
    """Return a hash of the split and of a directory's files, independent of location and time.

    For a data set on the hub it is the fingerprint that `datasets` 5.2 computes for the split from
    the files of its revision and its processing.

    Raises:
        ConfigError: The data set cannot be loaded from the hub.
        ArtifactError: A file of the directory cannot be read.
    """
    directory = _directory(config)
    if directory is None:
        return str(_load(config)._fingerprint)
    with disk_errors("reading a data set", directory):
        digests = [[name, sha256_file(directory / name)] for name in sorted(_file_names(directory))]
    split = config.split or DEFAULT_SPLIT
    return sha256_bytes(json.dumps([config.subset, split, digests]).encode())


def _directory(config: SourceConfig) -> Path | None:
    directory = Path(str(config.dataset)).expanduser()
    return directory if directory.is_dir() else None


def _file_names(directory: Path) -> Iterator[str]:
    for path in directory.rglob("*"):
        if path.is_file():
            yield path.relative_to(directory).as_posix()


def _load(config: SourceConfig) -> Any:  # noqa: ANN401  (untyped library)
    split = config.split or DEFAULT_SPLIT
    return _load_split(str(config.dataset), config.subset, split, config.revision)


@functools.lru_cache(maxsize=8)
def _load_split(name: str, subset: str | None, split: str, revision: str | None) -> Any:  # noqa: ANN401  (untyped library)
    import datasets

    directory = Path(name).expanduser()
    try:
        if (directory / "state.json").is_file() or (directory / "dataset_dict.json").is_file():
            loaded = datasets.load_from_disk(directory)
            return _split(loaded, split) if isinstance(loaded, datasets.DatasetDict) else loaded
        guard_client()
        return datasets.load_dataset(name, subset, split=split, revision=revision)
    except Exception as error:  # The library raises many kinds, its own and others'.
        raise ConfigError(
            "the data set cannot be loaded",
            where=name,
            expected=f"a data set with split {split!r}, on the Hugging Face hub or in a directory",
            found=first_line(error),
            hint="check dataset, subset, split and revision of the source; a gated data set needs "
            "`hf auth login`, and without network it has to be on this machine",
        ) from error


def _split(loaded: Any, split: str) -> Any:  # noqa: ANN401  (untyped library)
    if split not in loaded:
        raise ValueError(f"splits {', '.join(loaded)}")
    return loaded[split]
