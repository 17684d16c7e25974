"""Rows of JSONL, JSON, CSV, Parquet and OTLP files, and of vLLM's logs, local or remote.

In: a path, a directory, a pattern or an fsspec URL. Out: a stream of rows, and the hash of the
content.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from generate.sources import otlp_files, vllm_logs
from generate.sources.json_text import parse_json
from generate.sources.parquet_files import read_batches
from generate.sources.rows import READ_ERRORS, RowError, SourceRow, table_rows
from potstill.csv_text import CSV_SUFFIXES, CsvError, read_csv
from potstill.errors import ConfigError, PotstillError
from potstill.files import CHUNK_BYTES, HINTS, sha256_bytes

PARQUET_SUFFIXES = {".parquet", ".pq"}
JSONL_SUFFIXES = {".jsonl", ".ndjson"}
JSON_SUFFIXES = {".json"}
MAX_LINE_BYTES = 1 << 26
"""64 MiB: a line is in memory as a whole."""
MAX_JSON_BYTES = 1 << 28
"""256 MiB: a JSON document is in memory as a whole, parsed several times that."""
COMPRESSED_SUFFIXES = {".gz", ".bz2", ".xz", ".zst"}


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
        raise _unreadable(path, "no such file, or no file with rows in the directory")
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
    path = PurePosixPath(file.path)
    if path.suffix in PARQUET_SUFFIXES:
        return _read_parquet(file, columns)
    suffix = _suffix(path)
    if suffix in CSV_SUFFIXES:
        return _read_csv(file)
    if suffix in otlp_files.SUFFIXES:
        return _read_otlp(file)
    if suffix in vllm_logs.SUFFIXES and not _has_json_lines(file):
        return _read_vllm_log(file)
    document = _document(file) if suffix in JSON_SUFFIXES else None
    return _read_jsonl(file) if document is None else _read_document(file, document)


def _read_jsonl(file: SourceFile) -> Iterator[SourceRow]:
    for number, raw in enumerate(_lines(file), start=1):
        where = f"{file.shown}, line {number}"
        if len(raw) > MAX_LINE_BYTES:
            error = RowError(f"a line of more than {MAX_LINE_BYTES} bytes")
            yield SourceRow(where, file.name, error)
            return
        raw = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
        if line := raw.strip():
            yield SourceRow(where, file.name, _parse(line))


def _read_csv(file: SourceFile) -> Iterator[SourceRow]:
    """Yield the rows of a table; one at fault is the last."""
    try:
        lines = (_decoded(line, number) for number, line in enumerate(_lines(file), start=1))
        for number, row in read_csv(lines, by_place=1):
            yield SourceRow(f"{file.shown}, line {number}", file.name, row)
    except CsvError as error:
        yield SourceRow(f"{file.shown}, line {error.line}", file.name, RowError(str(error)))


def _decoded(line: bytes, number: int) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise CsvError(number, str(_not_utf8(line, error))) from error


def _read_document(file: SourceFile, document: object) -> Iterator[SourceRow]:
    """Yield the items of a list, or of a page of an API (`data`); anything else is one row."""
    page = document.get("data") if isinstance(document, dict) else document
    items = page if isinstance(page, list) else [document]
    for number, item in enumerate(items, start=1):
        yield SourceRow(f"{file.shown}, item {number}", file.name, item)


def _document(file: SourceFile) -> Any:  # noqa: ANN401  (JSON has any type)
    """Return a file's JSON document; None if it is not one, but may have one on each line."""
    try:
        with file.fs.open(file.path, "rb", compression="infer") as stream:
            content = stream.read(MAX_JSON_BYTES + 1)
    except READ_ERRORS as error:
        raise _unreadable(file.shown, error) from error
    if len(content) > MAX_JSON_BYTES:
        return None
    try:
        return parse_json(content.removeprefix(codecs.BOM_UTF8).decode())
    except (RowError, UnicodeDecodeError):
        return None


def _read_otlp(file: SourceFile) -> Iterator[SourceRow]:
    try:
        with file.fs.open(file.path, "rb", compression="infer") as stream:
            for number, values in enumerate(otlp_files.read_messages(stream), start=1):
                yield SourceRow(f"{file.shown}, message {number}", file.name, values)
    except READ_ERRORS as error:
        raise _unreadable(file.shown, error) from error


def _read_vllm_log(file: SourceFile) -> Iterator[SourceRow]:
    lines = (line.decode(errors="replace") for line in _lines(file))
    for number, values in vllm_logs.read_lines(lines):
        yield SourceRow(f"{file.shown}, line {number}", file.name, values)


def _has_json_lines(file: SourceFile) -> bool:
    """Return whether a log's first line begins a JSON object."""
    return next(_lines(file), b"").removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{")


def _lines(file: SourceFile) -> Iterator[bytes]:
    try:
        with file.fs.open(file.path, "rb", compression="infer") as stream:
            lines = io.BufferedReader(stream, CHUNK_BYTES)
            while line := lines.readline(MAX_LINE_BYTES + 1):
                yield line
    except READ_ERRORS as error:
        raise _unreadable(file.shown, error) from error


def _parse(line: bytes) -> object:
    try:
        return parse_json(line.decode())
    except UnicodeDecodeError as error:
        return _not_utf8(line, error)
    except RowError as error:
        return error


def _not_utf8(line: bytes, error: UnicodeDecodeError) -> RowError:
    return RowError(f"not UTF-8: byte 0x{line[error.start]:02x} at byte {error.start + 1}")


def _read_parquet(file: SourceFile, columns: frozenset[str]) -> Iterator[SourceRow]:
    shown = file.shown

    def where(number: int) -> str:
        return f"{shown}, row {number}"

    try:
        is_local = isinstance(file.fs, LocalFileSystem)
        batches = read_batches(shown, columns, is_local=is_local)
        yield from table_rows(batches, where, file.name)
    except PotstillError as error:
        hint = "check that the file is complete, and that its rows are not far larger than it is"
        raise _unreadable(shown, error.what, hint) from error


def _holds_rows(inside: str) -> bool:
    path = PurePosixPath(inside.lstrip("/"))
    if any(part.startswith((".", "_")) for part in path.parts):
        return False
    texts = JSONL_SUFFIXES | JSON_SUFFIXES | CSV_SUFFIXES | vllm_logs.SUFFIXES
    return _suffix(path) in texts | otlp_files.SUFFIXES or path.suffix in PARQUET_SUFFIXES


def _suffix(path: PurePosixPath) -> str:
    """Return what a file's name ends in, apart from its compression."""
    return path.with_suffix("").suffix if path.suffix in COMPRESSED_SUFFIXES else path.suffix


def _sha256(file: SourceFile) -> str:
    digest = hashlib.sha256()
    try:
        with file.fs.open(file.path, "rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
    except READ_ERRORS as error:
        raise _unreadable(file.shown, error) from error
    return digest.hexdigest()


def _unreadable(
    where: object, error: object, hint: str = f"check the path: {HINTS[FileNotFoundError]}"
) -> ConfigError:
    return ConfigError(
        "the prompts cannot be read",
        where=where,
        expected="JSONL, JSON or CSV in UTF-8, OTLP, a log of vLLM's, or Parquet (the path of a "
        "source of prompts)",
        found=getattr(error, "strerror", None) or error,
        hint=hint,
    )
