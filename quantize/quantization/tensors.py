"""The types that the tensors of a GGUF file have, read back from the file."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from potstill.facts.gguf import FileTensors
from potstill.models.header import GgufHeader

EMBEDDING, HEAD = "token_embd.weight", "output.weight"
"""Every recipe of llama.cpp treats these two differently from other tensors."""


@dataclass(frozen=True)
class FileTensor:
    """One tensor of a file.

    Attributes:
        type: ggml's name of its type.
        shape: Rows first; blocks of a type divide rows.
        num_bytes: Its size in the file, without padding.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    num_bytes: int

    @property
    def row_length(self) -> int:
        """Values in a row."""
        return self.shape[-1]

    def num_bytes_as(self, tensor_type: str) -> int:
        """Return its size as another type."""
        block, block_bytes = _block_size(tensor_type)
        return math.prod(self.shape) // block * block_bytes

    @property
    def is_matrix(self) -> bool:
        """Whether llama.cpp quantizes it."""
        return len(self.shape) > 1 and self.name.endswith(".weight")


def read_tensors(path: Path) -> list[FileTensor]:
    """Read the tensors' descriptions in a file's header."""
    from gguf import GGMLQuantizationType

    return [
        FileTensor(one.name, GGMLQuantizationType(one.type).name, one.dims[::-1], one.num_bytes)
        for one in GgufHeader.read(path).tensors
    ]


class TensorValues:
    """The values of a mapped file's tensors, dequantized on access."""

    def __init__(self, path: Path) -> None:
        from gguf import GGUFReader

        self._tensors = {tensor.name: tensor for tensor in GGUFReader(path).tensors}

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        from gguf.quants import dequantize

        tensor = self._tensors[name]
        values: NDArray[np.float32] = dequantize(tensor.data, tensor.tensor_type)
        return values.astype(np.float32, copy=False)


def block_length(tensor_type: str) -> int:
    """Return the number of values in a block of a type; rows consist of complete blocks."""
    return _block_size(tensor_type)[0]


def _block_size(tensor_type: str) -> tuple[int, int]:
    """Return values and bytes of a block."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    values, num_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[tensor_type]]
    return int(values), int(num_bytes)


def bits_per_weight(path: Path) -> float:
    """Return the bits of all tensors of a file over the number of their values."""
    tensors = read_tensors(path)
    num_weights = sum(math.prod(one.shape) for one in tensors)
    return 8 * sum(one.num_bytes for one in tensors) / num_weights


def count_fallbacks(tensors: list[FileTensor], tensor_type: str) -> dict[str, int]:
    """Count the matrices whose rows are not a multiple of a type's block, by the type they got.

    Embedding and head are left out: recipes give them other types in any case.
    """
    block = block_length(tensor_type)
    return dict(
        Counter(
            one.type
            for one in tensors
            if one.is_matrix and one.name not in (EMBEDDING, HEAD) and one.row_length % block
        ).most_common()
    )


def describe_tensors(path: Path, tensor_type: str | None) -> FileTensors:
    """Return the types of a file's tensors.

    Args:
        tensor_type: The type most of them should have; None for a file without such a type.
    """
    tensors = read_tensors(path)
    return FileTensors(
        tensor_types=dict(Counter(one.type for one in tensors).most_common()),
        fallbacks=count_fallbacks(tensors, tensor_type) if tensor_type else {},
    )


def explain_fallbacks(path: Path, tensor_type: str) -> str | None:
    """Describe how many tensors lack the type in the file's name, and why; None if none does."""
    tensors = read_tensors(path)
    fallbacks = count_fallbacks(tensors, tensor_type)
    if not fallbacks:
        return None
    block = block_length(tensor_type)
    rows = sorted({one.row_length for one in tensors if one.is_matrix and one.row_length % block})
    became = ", ".join(f"{count} {name}" for name, count in fallbacks.items())
    return (
        f"{sum(fallbacks.values())} of {len(tensors)} tensors are not {tensor_type} but {became}: "
        f"rows of {' and '.join(map(str, rows))} are not a multiple of {block}"
    )
