"""Rows of weights as the blocks of a GGUF type, by the same code that quantizes whole files.

In: unquantized rows, a type, and what weighs their columns. Out: bytes. Knows nothing of files.

Only ggml's arithmetic is called, on arrays whose sizes were checked: unlike models and files, that
is safe in any process.

Shape legend: R rows, C columns, B bytes of a row.
"""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from potstill.errors import ConversionError

ROWS_PER_TASK = 256
"""Rows that a thread takes at a time; rows are quantized each on their own."""


def quantize_rows(
    weights_RC: NDArray[Any],
    type_number: int,
    importance_C: NDArray[np.float32] | None = None,
    num_threads: int = 1,
) -> NDArray[np.uint8]:
    """Return rows [R, B] of blocks.

    Args:
        weights_RC: float32, float16, or the bits of bfloat16 in uint16.
        type_number: A GGMLQuantizationType.
        importance_C: Weights of the columns' squared errors, the mean squares of an importance
            matrix; None weighs them as the type does by itself.

    Raises:
        ConversionError: The columns make no whole number of blocks.

    Source: llama.cpp src/llama-quant.cpp, llama_tensor_quantize_impl (commit 0c1e57098).
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    block_columns, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(type_number)]
    num_rows, num_columns = weights_RC.shape
    if num_columns % block_columns:
        raise ConversionError(
            f"rows cannot be put into blocks of {GGMLQuantizationType(type_number).name}",
            expected=f"a multiple of {block_columns} columns",
            found=num_columns,
        )
    blocks_RB = np.empty((num_rows, num_columns // block_columns * block_bytes), np.uint8)
    if importance_C is not None:
        importance_C = np.ascontiguousarray(importance_C, np.float32)
    library = _ggml()

    def quantize(first: int) -> None:
        rows_RC = _float32(weights_RC[first : first + ROWS_PER_TASK])
        library.ggml_quantize_chunk(
            type_number,
            rows_RC.ctypes.data,
            blocks_RB[first:].ctypes.data,
            0,
            len(rows_RC),
            num_columns,
            None if importance_C is None else importance_C.ctypes.data,
        )

    library.ggml_quantize_init(type_number)  # tables of some types; not to be made by two threads
    with ThreadPoolExecutor(num_threads) as threads:
        list(threads.map(quantize, range(0, num_rows, ROWS_PER_TASK)))
    return blocks_RB


def _float32(rows_RC: NDArray[Any]) -> NDArray[np.float32]:
    if rows_RC.dtype == np.uint16:
        return (rows_RC.astype(np.uint32) << 16).view(np.float32)
    return np.ascontiguousarray(rows_RC, np.float32)


@cache
def _ggml() -> Any:  # noqa: ANN401  (a ctypes library)
    from llama_cpp._ggml import libggml

    pointer, rows = ctypes.c_void_p, ctypes.c_int64
    quantize, prepare = libggml.ggml_quantize_chunk, libggml.ggml_quantize_init
    quantize.argtypes = [ctypes.c_int, pointer, pointer, rows, rows, rows, pointer]
    quantize.restype = ctypes.c_size_t
    prepare.argtypes, prepare.restype = [ctypes.c_int], None
    return libggml
