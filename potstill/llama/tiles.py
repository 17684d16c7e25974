"""Whether llama.cpp can multiply on Intel's matrix tiles (AMX).

Compiled by GCC without `-fno-dse`, the stores that configure the tiles are optimized away, and the
first product of a quantized matrix ends the process (github.com/ggml-org/llama.cpp/issues/20824,
seen with GCC 12). So a child process multiplies one, where the library has such kernels.

Products with rows of a single block of 32 values are wrong for 32 or more tokens: llama.cpp
(0c1e57098, ggml-cpu/amx/mmq.cpp, `tinygemm_kernel_amx`) adds them to memory that nothing has set.
"""

from __future__ import annotations

import ctypes
import json
import logging
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp._ggml import libggml

from potstill.errors import ArtifactError
from potstill.models.header import GgufHeader
from potstill.processor import has_amx
from potstill.workers import Handler, Worker, WorkerError, environment_without_secrets

logger = logging.getLogger(__name__)

NAME = b"AMX"
"""Of the kind of memory whose matrices are multiplied on tiles (ggml-cpu/amx/amx.cpp)."""
CPU, F32, Q8_0 = 0, 0, 8
"""Values of ggml_backend_dev_type and ggml_type (llama.cpp 0c1e57098)."""
NUM_ROWS, WIDTH, NUM_COLUMNS = 64, 64, 20
"""Of the matrix, and of what it is multiplied with: more columns than a tile has."""
NUM_BLOCK_VALUES = 32
BLOCK = np.dtype([("scale", "<f2"), ("values", "i1", NUM_BLOCK_VALUES)])
"""Of type Q8_0."""
CONTEXT_BYTES = 1 << 20
SECONDS = 30.0
SERVICE = f"{__name__}:service"


@cache
def has_tiles() -> bool:
    """Return whether this processor has tiles, and llama.cpp kernels for them."""
    return has_amx() and bool(libggml.ggml_cpu_has_amx_int8())


@cache
def tiles_work() -> bool:
    """Return whether a product on tiles is right; where it crashes, it is not."""
    if not has_tiles():
        return False
    with Worker(SERVICE, environment=environment_without_secrets()) as worker:
        try:
            work = json.loads(worker.ask(b"", SECONDS)) is True
        except WorkerError:
            work = False
    if not work:
        logger.info(
            "llama.cpp fails on this processor's matrix tiles (AMX) and does without them: "
            "compile llama-cpp-python again with CXXFLAGS=-fno-dse"
        )
    return work


def multiplies_on_tiles(path: Path) -> bool:
    """Return whether products of a file's matrices are right on tiles; False if it is damaged."""
    if not tiles_work():
        return False
    try:
        tensors = GgufHeader.read(path).tensors
    except ArtifactError:
        return False
    return all(one.dims[0] != NUM_BLOCK_VALUES for one in tensors if len(one.dims) > 1)


def service() -> Handler:
    """Return a handler that answers whether a product on tiles is right; it may crash."""
    return lambda _: json.dumps(_multiplies()).encode()


class _InitParams(ctypes.Structure):
    _fields_ = (
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    )


def _multiplies() -> bool:
    memory = _tiles_memory()
    if memory is None:
        return False
    random = np.random.default_rng(0)
    matrix = random.integers(-9, 10, (NUM_ROWS, WIDTH), dtype=np.int8)
    other = random.integers(-9, 10, (NUM_COLUMNS, WIDTH)).astype(np.float32)
    other[:, ::NUM_BLOCK_VALUES] = 127  # then llama.cpp rounds it to eight bits without an error
    blocks = np.zeros(matrix.size // NUM_BLOCK_VALUES, BLOCK)
    blocks["scale"], blocks["values"] = 1, matrix.reshape(-1, NUM_BLOCK_VALUES)

    left = _tensor(Q8_0, NUM_ROWS, memory, blocks.tobytes())
    context, right = _new_tensor(F32, NUM_COLUMNS)
    product = _call("ggml_mul_mat", context, left, right)
    graph = _call("ggml_new_graph", context)
    _call("ggml_build_forward_expand", graph, product)
    backend = _call("ggml_backend_cpu_init")
    _call("ggml_backend_alloc_ctx_tensors", context, backend)
    _set(right, other.tobytes())
    _call("ggml_backend_graph_compute", backend, graph)
    found = np.empty((NUM_COLUMNS, NUM_ROWS), np.float32)
    _call(
        "ggml_backend_tensor_get", product, found.ctypes.data_as(ctypes.c_void_p),
        ctypes.c_size_t(0), ctypes.c_size_t(found.nbytes),
    )  # fmt: skip
    return bool(np.array_equal(found, other @ matrix.T))


def _tiles_memory() -> ctypes.c_void_p | None:
    """Return the kind of memory for tiles; None where the system does not permit them."""
    device = _call("ggml_backend_dev_by_type", CPU)
    registry = _call("ggml_backend_dev_backend_reg", device)
    address = _call(
        "ggml_backend_reg_get_proc_address", registry, b"ggml_backend_dev_get_extra_bufts"
    )
    if address.value is None:
        return None
    kinds_of = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(address.value)
    libggml.ggml_backend_buft_name.restype = ctypes.c_char_p
    for kind in kinds_of(device):
        if kind is None:
            return None
        if libggml.ggml_backend_buft_name(ctypes.c_void_p(kind)) == NAME:
            return ctypes.c_void_p(kind)
    return None


def _new_tensor(kind: int, num_rows: int) -> tuple[ctypes.c_void_p, ctypes.c_void_p]:
    """Return a new context and a matrix in it that has no memory yet."""
    context = _call("ggml_init", _InitParams(CONTEXT_BYTES, None, no_alloc=True))
    sizes = ctypes.c_int64(WIDTH), ctypes.c_int64(num_rows)
    return context, _call("ggml_new_tensor_2d", context, kind, *sizes)


def _tensor(kind: int, num_rows: int, memory: ctypes.c_void_p, content: bytes) -> ctypes.c_void_p:
    context, tensor = _new_tensor(kind, num_rows)
    _call("ggml_backend_alloc_ctx_tensors_from_buft", context, memory)
    _set(tensor, content)
    return tensor


def _set(tensor: ctypes.c_void_p, content: bytes) -> None:
    _call(
        "ggml_backend_tensor_set", tensor, content, ctypes.c_size_t(0),
        ctypes.c_size_t(len(content)),
    )  # fmt: skip


def _call(name: str, *arguments: Any) -> ctypes.c_void_p:  # noqa: ANN401  (what ctypes takes)
    function = libggml[name]
    function.restype = ctypes.c_void_p
    return ctypes.c_void_p(function(*arguments))
