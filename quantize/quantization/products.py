"""The squared inputs of each weight matrix, as llama.cpp's graph multiplies them.

This runs in a child process with a file loaded: it reads llama.cpp's memory.

Shape legend: C input columns of a matrix, M matrices of a tensor (its experts, or one), T tokens.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp._ggml import libggml
from numpy.typing import NDArray

from potstill.llama.context import BATCH_TOKENS, Context, measuring_params
from potstill.llama.model import LlamaModel
from potstill.workers import Handler

F32, I32 = 0, 26
"""ggml's numbers of these types (llama.cpp 0c1e57098, ggml.h)."""
PRODUCT, EXPERTS_PRODUCT = b"MUL_MAT", b"MUL_MAT_ID"


class GgmlTensor(ctypes.Structure):
    """struct ggml_tensor (llama.cpp 0c1e57098, ggml.h)."""


GgmlTensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(GgmlTensor) * 10),
    ("view_src", ctypes.c_void_p),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
]


class Products:
    """Sums of squared inputs over all tokens evaluated so far, by the names of weights.

    The head and the embedding are left out, as by llama.cpp's own tool.

    Attributes:
        callback: What a context calls; it must live as long as the context.
        sums: Arrays [M, C].
        counts: Arrays [M]: how many inputs each matrix had.

    Source: llama.cpp 0c1e57098, tools/imatrix/imatrix.cpp, IMatrixCollector::collect_imatrix.
    """

    def __init__(self) -> None:
        self.sums: dict[str, NDArray[np.float64]] = {}
        self.counts: dict[str, NDArray[np.float64]] = {}
        self.callback = llama_cpp.ggml_backend_sched_eval_callback(self.collect)

    def collect(self, pointer: int, ask: bool, _user_data: object) -> bool:
        """Take part in an evaluation: ask for products with a block's weights, and add them."""
        tensor = ctypes.cast(pointer, ctypes.POINTER(GgmlTensor)).contents
        operation = libggml.ggml_op_name(tensor.op)
        if operation not in (PRODUCT, EXPERTS_PRODUCT):
            return False
        weights, inputs = tensor.src[0].contents, tensor.src[1].contents
        name = weights.name.decode()
        if not (name.startswith("blk.") and name.endswith(".weight") and inputs.type == F32):
            return False
        if not ask:
            squares = np.square(_values(inputs, ctypes.c_float).astype(np.float64))
            if operation == PRODUCT:
                self._add(name, 1, 0, squares.reshape(-1, squares.shape[-1]))
            else:
                self._add_experts(name, weights.ne[2], squares[0], tensor.src[2].contents)
        return True

    def _add_experts(
        self, name: str, num_experts: int, squares: NDArray[np.float64], chosen: GgmlTensor
    ) -> None:
        """Add inputs [T, experts of a token or 1, C] to the experts that were chosen for them."""
        expert_ids = _values(chosen, ctypes.c_int32)[0, 0]
        squares = np.broadcast_to(squares, (*expert_ids.shape, squares.shape[-1]))
        for expert in range(num_experts):
            self._add(name, num_experts, expert, squares[expert_ids == expert])

    def _add(
        self, name: str, num_matrices: int, matrix: int, squares_TC: NDArray[np.float64]
    ) -> None:
        shape = (num_matrices, squares_TC.shape[-1])
        self.sums.setdefault(name, np.zeros(shape))[matrix] += squares_TC.sum(0)
        self.counts.setdefault(name, np.zeros(num_matrices))[matrix] += len(squares_TC)


def service(path: str, context_tokens: int, num_threads: int) -> Handler:
    """Return the handler of messages, for `potstill.workers`.

    A message is the ids of a sequence to evaluate, or the name of a file to save the sums in.
    """
    libggml.ggml_op_name.restype = ctypes.c_char_p
    products = Products()
    params = measuring_params(context_tokens, num_threads)
    params.cb_eval = products.callback
    context = Context(LlamaModel(Path(path), for_measurement=True), params)

    def handle(message: bytes) -> bytes:
        request = json.loads(message)
        if isinstance(request, str):
            arrays = {f"{name}.sums": sums for name, sums in products.sums.items()}
            arrays |= {f"{name}.counts": counts for name, counts in products.counts.items()}
            np.savez(request, allow_pickle=False, **arrays)
        else:
            _evaluate(context, request)
        return b"{}"

    return handle


def _evaluate(context: Context, token_ids: Sequence[int]) -> None:
    """Evaluate a sequence; with all logits, or the last layer would see the last token only."""
    context.clear()
    for first in range(0, len(token_ids), BATCH_TOKENS):
        context.decode(token_ids[first : first + BATCH_TOKENS], first, 0)


def _values(tensor: GgmlTensor, item: Any) -> NDArray[Any]:  # noqa: ANN401  (a type of ctypes)
    """Return a tensor's values, its last dimension first, without copying."""
    shape, strides = tuple(reversed(tensor.ne)), tuple(reversed(tensor.nb))
    num_bytes = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    buffer = (ctypes.c_byte * (num_bytes + ctypes.sizeof(item))).from_address(tensor.data)
    return np.ndarray(shape, np.dtype(item), buffer, strides=strides)
