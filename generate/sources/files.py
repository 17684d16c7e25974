"""Rows of JSONL and Parquet files, local or remote.

In: a path, a directory, a pattern or an fsspec URL. Out: a stream of rows, and the hash of the
content.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from pyarrow import parquet

from generate.sources.rows import BATCH_ROWS, RowError, SourceRow, table_rows
from potstill.errors import ConfigError
from potstill.files import CHUNK_BYTES, sha256_bytes

PARQUET_SUFFIXES = {".parquet", ".pq"}
JSONL_SUFFIXES = {".jsonl", ".ndjson"}
COMPRESSED_SUFFIXES = {".gz", ".bz2", ".xz", ".zst"}
READ_ERRORS = (OSError, ImportError, EOFError, ValueError, zlib.error, pa.ArrowException)
"""Exceptions of file systems, codecs and Arrow for missing, forbidden or damaged files."""


@dataclass(frozen=True)
class SourceFile:
    """A file on one of fsspec's file systems."""

    fs: Any
    path: str

    @property
    def shown(self) -> str:
        """The path or URL as a user would write it."""
        is_local = isinstance(self.fs, LocalFileSystem)
        return self.path if is_local else str(self.fs.unstrip_protocol(self.path))

    @property
    def name(self) -> str:
        """Last part of the path."""
        return PurePosixPath(self.path).name


def find_files(path: str) -> list[SourceFile]:
    """Find a path's files, ordered by name; hidden ones in a directory are skipped.

    Raises:
        ConfigError: There are none.
    """
    try:
        fs, root = url_to_fs(path)
        if fs.isfile(root):
            found = [root]
        elif fs.isdir(root):
            found = [one for one in fs.find(root) if _holds_rows(one.removeprefix(root))]
        else:
            found = [one for one in fs.glob(root) if fs.isfile(one)]
    except READ_ERRORS as error:
        raise _unreadable(path, error) from error
    if not found:
        raise _unreadable(path, "no such file, or no JSONL or Parquet file in the directory")
    return [SourceFile(fs, one) for one in sorted(found)]


def digest_files(files: Sequence[SourceFile]) -> str:
    """Return the sha256 of one file, or of the names and hashes of several.

    Raises:
        ConfigError: A file cannot be read.
    """
    digests = [(file.name, _sha256(file)) for file in files]
    return digests[0][1] if len(digests) == 1 else sha256_bytes(json.dumps(digests).encode())


def read_file(file: SourceFile, columns: frozenset[str]) -> Iterator[SourceRow]:
    """Yield a file's rows, with at most one batch in memory.

    Args:
        columns: The columns of a table that are read.

    Raises:
        ConfigError: The file cannot be read.
    """
    is_parquet = PurePosixPath(file.path).suffix in PARQUET_SUFFIXES
    return _read_parquet(file, columns) if is_parquet else _read_jsonl(file)


def _read_jsonl(file: SourceFile) -> Iterator[SourceRow]:
    shown, name = file.shown, file.name
    for number, raw in enumerate(_lines(file), start=1):
        where = f"{shown}, line {number}"
        try:
            line = (raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw).decode()
        except UnicodeDecodeError as error:
            raise _unreadable(where, error) from error
        if line := line.strip():
            yield SourceRow(where, name, _parse(line))


def _lines(file: SourceFile) -> Iterator[bytes]:
    try:
        with file.fs.open(file.path, "rb", compression="infer") as stream:
            yield from stream
    except READ_ERRORS as error:
        raise _unreadable(file.shown, error) from error


def _parse(line: str) -> object:
    try:
        values = json.loads(line)
        if "\\u" in line:
            # A lone surrogate is valid JSON, but can be neither tokenized nor stored.
            json.dumps(values, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        return RowError(f"not JSON: {error}")
    return values


def _read_parquet(file: SourceFile, columns: frozenset[str]) -> Iterator[SourceRow]:
    shown = file.shown

    def where(number: int) -> str:
        return f"{shown}, row {number}"

    try:
        with file.fs.open(file.path, "rb") as stream:
            table = parquet.ParquetFile(stream, pre_buffer=False)
            names = table.schema_arrow.names
            known = [name for name in names if name in columns]
            batches = table.iter_batches(batch_size=BATCH_ROWS, columns=known or names)
            yield from table_rows(batches, where, file.name)
    except READ_ERRORS as error:
        raise _unreadable(file.shown, error) from error


def _holds_rows(inside: str) -> bool:
    path = PurePosixPath(inside.lstrip("/"))
    if any(part.startswith((".", "_")) for part in path.parts):
        return False
    kept = path.with_suffix("") if path.suffix in COMPRESSED_SUFFIXES else path
    return kept.suffix in JSONL_SUFFIXES or path.suffix in PARQUET_SUFFIXES


def _sha256(file: SourceFile) -> str:
    digest = hashlib.sha256()
    try:
        with file.fs.open(file.path, "rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
    except READ_ERRORS as error:
        raise _unreadable(file.shown, error) from error
    return digest.hexdigest()


def _unreadable(where: object, error: object) -> ConfigError:
    return ConfigError(
        "the prompts cannot be read",
        where=where,
        expected="JSONL in UTF-8, or Parquet (the path of a source of generate.prompts)",
        found=getattr(error, "strerror", None) or error,
        hint="check the path; without one the teacher writes the prompts itself",
    )
