"""Rows of Parquet files, read in a child process under a limit of memory.

A few hundred bytes of Parquet can hold gigabytes: a text that a thousand rows repeat is stored
once, and lengths that the file states are allocated before they are read.

In: a path or an fsspec URL. Out: Arrow batches of bounded size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import pyarrow as pa
from fsspec.core import url_to_fs
from pyarrow import parquet

from generate.sources.rows import BATCH_ROWS, READ_ERRORS
from potstill.errors import PotstillError
from potstill.workers import Handler, Worker, environment_without_secrets

MAX_GROWTH_BYTES = 2 << 30
"""2 GiB: of the child, with a batch of 1,024 rows in it and a compressed page of each column."""
MAX_ROW_BYTES = 1 << 26
"""64 MiB: of a row."""
BATCH_BYTES = 1 << 19
"""Of rows that are passed on together."""
BYTES_PER_VALUE = 32
"""Of a value of Python's, beside a text's characters."""
ALLOCATION = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1"}
"""Other allocators reserve more addresses than they use, which would count."""


def read_batches(url: str, columns: frozenset[str], *, is_local: bool) -> Iterator[pa.RecordBatch]:
    """Yield a file's rows.

    Args:
        columns: The columns that are read, where the file has any of them; otherwise all.
        is_local: Whether the file is on this machine; others may need keys from the environment.

    Raises:
        PotstillError: The file cannot be read within the limits.
    """
    environment = None
    if is_local:
        environment = environment_without_secrets() | ALLOCATION
    with Worker(
        f"{__name__}:service",
        url,
        sorted(columns),
        growth_bytes=MAX_GROWTH_BYTES,
        environment=environment,
    ) as worker:
        while content := worker.ask(b""):
            yield from pa.ipc.open_stream(content)


def service(url: str, columns: Sequence[str]) -> Handler:
    """Return a handler that answers with the next rows as an Arrow stream, empty after the last."""
    batches = _batches(url, frozenset(columns))

    def answer(_message: bytes) -> bytes:
        try:
            batch = next(batches, None)
            if batch is None:
                return b""
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, batch.schema) as stream:
                stream.write_batch(batch)
            return bytes(sink.getvalue())
        except (*READ_ERRORS, MemoryError) as error:
            what = str(getattr(error, "strerror", None) or error)
            if isinstance(error, MemoryError) or re.search("realloc|malloc", what):
                what = f"more than {MAX_GROWTH_BYTES >> 20} MiB of memory are needed"
            raise PotstillError(what) from None

    return answer


def _batches(url: str, columns: frozenset[str]) -> Iterator[pa.RecordBatch]:
    fs, path = url_to_fs(url)
    with fs.open(path, "rb") as stream:
        table = parquet.ParquetFile(stream, pre_buffer=False)
        names = table.schema_arrow.names
        known = [name for name in names if name in columns]
        for batch in table.iter_batches(BATCH_ROWS, columns=known or names, use_threads=False):
            yield from _parts(batch.cast(pa.schema([_repeated(one) for one in batch.schema])))


def _repeated(field: pa.Field) -> pa.Field:
    """Return a field in which each row has its own text; a file may ask for shared ones."""
    kind = field.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    elif pa.types.is_struct(kind):
        kind = pa.struct([_repeated(one) for one in kind])
    elif pa.types.is_large_list(kind):
        kind = pa.large_list(_repeated(kind.value_field))
    elif pa.types.is_list(kind):
        kind = pa.list_(_repeated(kind.value_field))
    return field.with_type(kind)


def _num_bytes(array: pa.Array) -> int:
    """Return about how many bytes an array takes as values of Python's; nulls have none here."""
    own = BYTES_PER_VALUE * len(array)
    if pa.types.is_map(array.type):
        return own + _num_bytes(array.keys) + _num_bytes(array.items)
    if pa.types.is_struct(array.type):
        return own + sum(map(_num_bytes, array.flatten()))
    if pa.types.is_nested(array.type):
        return own + _num_bytes(array.flatten())
    return own + int(array.nbytes)


def _parts(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Split a batch until its parts are small enough."""
    num_bytes = sum(map(_num_bytes, batch.columns))
    if batch.num_rows == 1 and num_bytes > MAX_ROW_BYTES:
        raise ValueError(f"a row of more than {MAX_ROW_BYTES} bytes")
    if num_bytes <= BATCH_BYTES or batch.num_rows == 1:
        yield batch
        return
    half = batch.num_rows // 2
    yield from _parts(batch.slice(0, half))
    yield from _parts(batch.slice(half))
