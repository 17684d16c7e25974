"""The header of a GGUF file: its metadata and where its tensors are, without their values.

`gguf.GGUFReader` takes half a minute for a large vocabulary; this takes a tenth of a second.
Source: docs/gguf.md of ggml, version 3.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from potstill.errors import ArtifactError
from potstill.files import disk_errors

MAGIC, VERSIONS = b"GGUF", (2, 3)
ALIGNMENT_KEY, DEFAULT_ALIGNMENT = "general.alignment", 32
SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
"""Formats of `struct` by GGUF's number of a type."""
STRING, ARRAY = 8, 9
MAX_DIMS = 4
"""ggml's limit; without one a product of dimensions may take hours."""
UNKNOWN_TYPE = "mixed"
"""File type of a file that gives none."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of a file."""

    name: str
    dims: tuple[int, ...]
    """The fastest-moving first."""
    type: int
    """ggml's number of it."""
    offset: int
    """From the beginning of the file's tensor data, in bytes."""

    @property
    def num_values(self) -> int:
        """Number of weights."""
        return math.prod(self.dims)

    @property
    def num_bytes(self) -> int:
        """Size in the file."""
        from gguf import GGML_QUANT_SIZES  # Here, because not every stage has it.

        block_values, block_bytes = GGML_QUANT_SIZES[self.type]
        return self.num_values // int(block_values) * int(block_bytes)


@dataclass(frozen=True)
class GgufHeader:
    """The part of a file before its tensors."""

    path: Path
    metadata: dict[str, Any]
    """Values by key; of an array only the length."""
    entries: dict[str, bytes]
    """The bytes of each key with its value, by key."""
    tensors: tuple[TensorInfo, ...]
    data_start: int
    """Where the tensor data begins."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the header of a complete file.

        Raises:
            ArtifactError: It is not a GGUF file, or it ends early.
        """
        with disk_errors("reading a GGUF file", path):
            num_bytes = path.stat().st_size
            try:
                with (
                    path.open("rb") as stream,
                    mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
                ):
                    header = cls._parse(path, _Cursor(content))
                end = max(header.data_start + one.offset + one.num_bytes for one in header.tensors)
            except (struct.error, LookupError, ValueError, RecursionError) as error:
                raise _damaged(path, "a complete GGUF file, version 2 or 3", error) from error
        if num_bytes < end:
            raise _damaged(path, f"{end} bytes, as its header describes", f"{num_bytes} bytes")
        return header

    @classmethod
    def _parse(cls, path: Path, cursor: _Cursor) -> Self:
        magic, version = cursor.take(4), cursor.scalar("I")
        if magic != MAGIC or version not in VERSIONS:
            raise ValueError(f"it begins with {magic!r}, version {version}")
        num_tensors, num_entries = cursor.scalar("Q"), cursor.scalar("Q")
        metadata, entries = {}, {}
        for _ in range(num_entries):
            start, key = cursor.position, cursor.string()
            metadata[key] = cursor.value(cursor.scalar("I"))
            entries[key] = cursor.since(start)
        tensors = tuple(cursor.tensor() for _ in range(num_tensors))
        alignment = metadata.get(ALIGNMENT_KEY, DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise ValueError(f"its tensors are aligned to {alignment!r} bytes")
        return cls(path, metadata, entries, tensors, aligned(cursor.position, alignment))

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture, such as qwen2.

        Raises:
            ArtifactError: The file has none.
        """
        try:
            return str(self.metadata["general.architecture"])
        except KeyError as error:
            raise _damaged(self.path, "general.architecture in its metadata", "none") from error

    @property
    def file_type(self) -> str:
        """llama.cpp's name of the file's type, such as Q4_K_M."""
        from gguf import LlamaFileType

        names = {int(one): str(one.name) for one in LlamaFileType}
        name = names.get(self.metadata.get("general.file_type", -1), UNKNOWN_TYPE)
        return name.removeprefix("MOSTLY_").removeprefix("ALL_")

    @property
    def alignment(self) -> int:
        """Divisor of the tensors' offsets, in bytes."""
        return int(self.metadata.get(ALIGNMENT_KEY, DEFAULT_ALIGNMENT))


class _Cursor:
    """A position in a file's bytes."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self.position = 0

    def take(self, count: int) -> bytes:
        start = self.position
        self._advance(count)
        return self._content[start : self.position]

    def since(self, start: int) -> bytes:
        return self._content[start : self.position]

    def scalar(self, kind: str) -> Any:  # noqa: ANN401  (a number or a bool)
        return struct.unpack(f"<{kind}", self.take(struct.calcsize(f"<{kind}")))[0]

    def string(self) -> str:
        return self.take(self.scalar("Q")).decode()

    def value(self, type_: int) -> Any:  # noqa: ANN401
        """Return a scalar or a string; of an array its length."""
        if type_ == STRING:
            return self.string()
        if type_ != ARRAY:
            return self.scalar(SCALARS[type_])
        element, count = self.scalar("I"), self.scalar("Q")
        if element == STRING:
            for _ in range(count):
                self._advance(self.scalar("Q"))
        elif element == ARRAY:
            for _ in range(count):
                self.value(ARRAY)
        else:
            self._advance(count * struct.calcsize(f"<{SCALARS[element]}"))
        return count

    def tensor(self) -> TensorInfo:
        name = self.string()
        num_dims = self.scalar("I")
        if num_dims > MAX_DIMS:
            raise ValueError(f"the tensor {name!r} has {num_dims} dimensions")
        dims = tuple(self.scalar("Q") for _ in range(num_dims))
        return TensorInfo(name, dims, type=self.scalar("I"), offset=self.scalar("Q"))

    def _advance(self, count: int) -> None:
        if self.position + count > len(self._content):
            raise ValueError(f"it ends at byte {len(self._content)}, inside its header")
        self.position += count


def aligned(position: int, alignment: int) -> int:
    """Return the next multiple of the alignment."""
    return -(-position // alignment) * alignment


def _damaged(path: Path, expected: str, found: object) -> ArtifactError:
    return ArtifactError(
        "a GGUF file cannot be read",
        where=path,
        expected=expected,
        found=found,
        hint="download or copy the file again",
    )
