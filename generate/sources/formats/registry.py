"""All formats of rows: which reader a row is for, and what it finds.

In: a row as parsed JSON. Out: the requests to models in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from generate.sources.formats import (
    anthropic,
    exchange,
    helicone,
    langfuse,
    langsmith,
    litellm,
    openai_chat,
    openai_responses,
    otlp,
    sharegpt,
)
from generate.sources.formats.reader import Reader, Row, Trace
from generate.sources.rows import RowError

LOGS: tuple[Reader, ...] = (
    otlp.READER,
    langfuse.READER,
    langsmith.READER,
    litellm.READER,
    helicone.READER,
    exchange.ANTHROPIC_BATCH,
    openai_chat.PREFERENCE,
    openai_responses.READER,
    anthropic.READER,
)
"""Formats with keys of their own; the first that matches reads the row."""
CONVERSATIONS: tuple[Reader, ...] = (
    openai_chat.PROMPT,
    openai_chat.MESSAGES,
    exchange.BATCH,
    exchange.RECORD,
    *sharegpt.READERS,
)
"""Formats with one key each; a row of two of them is refused."""
ROW_COLUMNS = frozenset({"answer", "licence", "license", "source"})
"""Keys that any conversation may have."""
COLUMNS = ROW_COLUMNS.union(*(reader.columns for reader in (*LOGS, *CONVERSATIONS)))
"""All keys that are read; other columns of tables are skipped."""


def read_row(values: object) -> Iterator[Trace | RowError]:
    """Yield the requests in a row, and an error for the row or for each part that cannot be read.

    Null is the same as absent.

    Args:
        values: Parsed JSON; a RowError where it could not be parsed.
    """
    reader = None
    try:
        if isinstance(values, RowError):
            raise values
        if not isinstance(values, Mapping):
            raise RowError(f"a JSON {type(values).__name__}")
        row = {key: value for key, value in values.items() if value is not None}
        reader = reader_of(row)
        for found in reader.read(row):
            yield _named(found, reader) if isinstance(found, RowError) else found
    except RowError as error:
        yield _named(error, reader)
    except RecursionError:
        yield RowError("values nested too deep")


def reader_of(row: Row) -> Reader:
    """Return the reader of a row.

    Raises:
        RowError: No format has its keys, or two have.
    """
    for reader in LOGS:
        if reader.matches(row):
            return reader
    found = [reader for reader in CONVERSATIONS if reader.matches(row)]
    if len(found) == 2 and found[0] is openai_chat.PROMPT:
        return found[1]
    if len(found) != 1:
        raise RowError(f"keys {', '.join(row) or 'none'}")
    return found[0]


def _named(error: RowError, reader: Reader | None) -> RowError:
    """Return an error that begins with the tool whose format the row has, if it is a tool's."""
    return RowError(f"{reader.name}: {error}") if reader and reader in LOGS else error
