"""Join the files of a model that llama.cpp has split.

In: the first of `name-00001-of-00003.gguf` and so on. Out: a file with all tensors, written once.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from potstill.errors import ArtifactError
from potstill.files import CHUNK_BYTES, replacing
from potstill.models.header import MAGIC, GgufHeader, TensorInfo, aligned

SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
SPLIT_KEYS = "split."
"""Prefix of the keys that describe the splitting."""


@dataclass(frozen=True)
class Shards:
    """The names of a split model's files."""

    stem: str
    num_shards: int

    @classmethod
    def of(cls, name: str) -> Shards | None:
        """Return the names of all parts of a split file; None for a file that is not split."""
        match = SHARD.fullmatch(name)
        return None if match is None else cls(match[1], int(match[3]))

    @property
    def names(self) -> list[str]:
        """All names, in order."""
        numbers = range(1, self.num_shards + 1)
        return [f"{self.stem}-{one:05d}-of-{self.num_shards:05d}.gguf" for one in numbers]

    def paths(self, directory: Path) -> list[Path]:
        """Return all paths.

        Raises:
            ArtifactError: One of them is missing.
        """
        paths = [directory / name for name in self.names]
        for path in paths:
            if not path.is_file():
                raise ArtifactError(
                    "a part of a split GGUF file is missing",
                    where=path,
                    expected=f"{self.num_shards} files beside one another",
                    hint="download all parts into one directory",
                )
        return paths


def join_shards(paths: list[Path], target: Path) -> None:
    """Write the tensors of a split model's files into one file.

    Raises:
        ArtifactError: A file is damaged.
    """
    headers = [GgufHeader.read(path) for path in paths]
    first = headers[0]
    entries = [raw for key, raw in first.entries.items() if not key.startswith(SPLIT_KEYS)]
    tensors, end = [], 0
    for header in headers:
        for one in header.tensors:
            tensors.append(_tensor_entry(one, end))
            end = aligned(end + one.num_bytes, first.alignment)
    counts = struct.pack("<IQQ", 3, len(tensors), len(entries))
    with replacing(target) as temporary, temporary.open("wb") as stream:
        stream.write(b"".join([MAGIC, counts, *entries, *tensors]))
        for header in headers:
            with header.path.open("rb") as source:
                for one in header.tensors:
                    _pad(stream, first.alignment)
                    source.seek(header.data_start + one.offset)
                    _copy(source, stream, one.num_bytes)


def _tensor_entry(tensor: TensorInfo, offset: int) -> bytes:
    name = tensor.name.encode()
    head = struct.pack("<Q", len(name)) + name + struct.pack("<I", len(tensor.dims))
    return head + struct.pack(f"<{len(tensor.dims)}QIQ", *tensor.dims, tensor.type, offset)


def _pad(stream: BinaryIO, alignment: int) -> None:
    position = stream.tell()
    stream.write(bytes(aligned(position, alignment) - position))


def _copy(source: BinaryIO, target: BinaryIO, num_bytes: int) -> None:
    while num_bytes > 0:
        chunk = source.read(min(num_bytes, CHUNK_BYTES))
        target.write(chunk)
        num_bytes -= len(chunk)
