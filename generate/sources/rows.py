"""Rows of files and data sets, before they become prompts."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

BATCH_ROWS = 1024
READ_ERRORS = (OSError, ImportError, EOFError, ValueError, zlib.error, pa.ArrowException)
"""Exceptions of file systems, codecs and Arrow for missing, forbidden or damaged files."""


class RowError(ValueError):
    """A row that cannot be used; the message is what was found."""


@dataclass(frozen=True)
class SourceRow:
    """A row of a source."""

    where: str
    """File and line, for error messages."""
    source: str
    """Name of the file or data set."""
    values: object
    """Parsed JSON, or a dictionary by column; a RowError where it could not be parsed."""


def table_rows(
    batches: Iterable[pa.RecordBatch | pa.Table], where: Callable[[int], str], source: str
) -> Iterator[SourceRow]:
    """Yield the rows of Arrow batches as JSON values, without null values.

    Args:
        where: Returns a row's location by its number, from 1.
    """
    number = 0
    for batch in batches:
        for values in batch.to_pylist():
            number += 1
            yield SourceRow(where(number), source, _without_nulls(values))


def _without_nulls(value: Any) -> Any:  # noqa: ANN401  (JSON has any type)
    """Drop null values: in a table each message has the keys of all messages."""
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        return [_without_nulls(one) for one in value]
    return value
