"""Rows of a Hugging Face data set, from the hub or a directory.

In: a source that names one. Out: rows one after another, and a fingerprint of the content. The
rows stay in memory-mapped Arrow. Knows nothing of what a row means.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from generate.sources.config import SourceConfig
from generate.sources.rows import BATCH_ROWS, SourceRow, table_rows
from potstill.errors import ConfigError

DEFAULT_SPLIT = "train"


def read_dataset(config: SourceConfig, columns: frozenset[str]) -> Iterator[SourceRow]:
    """Yield a data set's rows, holding a batch of them at most.

    Args:
        columns: Which columns are read.

    Raises:
        ConfigError: The data set or its split cannot be loaded.
    """
    dataset = _load(config)
    known = [name for name in dataset.column_names if name in columns]
    table = dataset.select_columns(known or dataset.column_names).with_format("arrow")
    name = str(config.dataset)
    source = Path(name).name if Path(name).expanduser().is_dir() else name
    return table_rows(table.iter(BATCH_ROWS), lambda number: f"{name}, row {number}", source)


def digest_dataset(config: SourceConfig) -> str:
    """Return the fingerprint that `datasets` 5.2 gives the split: of its files and its making.

    Raises:
        ConfigError: The data set or its split cannot be loaded.
    """
    return str(_load(config)._fingerprint)


@functools.lru_cache(maxsize=8)
def _load(config: SourceConfig) -> Any:  # noqa: ANN401  (untyped library)
    import datasets

    name, split = str(config.dataset), config.split or DEFAULT_SPLIT
    directory = Path(name).expanduser()
    try:
        if (directory / "state.json").is_file() or (directory / "dataset_dict.json").is_file():
            loaded = datasets.load_from_disk(directory)
            return _split(loaded, split) if isinstance(loaded, datasets.DatasetDict) else loaded
        return datasets.load_dataset(name, config.subset, split=split, revision=config.revision)
    except Exception as error:  # The library raises many kinds, its own and others'.
        raise ConfigError(
            "the data set cannot be loaded",
            where=name,
            expected=f"a data set with split {split!r}, on the Hugging Face hub or in a directory",
            found=(str(error) or type(error).__name__).splitlines()[0],
            hint="check dataset, subset, split and revision of the source; a gated data set needs "
            "`hf auth login`, and without network it has to be on this machine",
        ) from error


def _split(loaded: Any, split: str) -> Any:  # noqa: ANN401  (untyped library)
    if split not in loaded:
        raise ValueError(f"splits {', '.join(loaded)}")
    return loaded[split]
