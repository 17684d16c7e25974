"""One GGUF file made from another by llama.cpp's own `llama_model_quantize`.

Runs in a child process. Peak memory is llama.cpp's: the mapped source, and of one tensor the
float32 values and the quantized ones, up to 8 GiB.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import llama_cpp

from potstill.errors import BackendError
from potstill.llama.library import forget_errors, initialize, quoted_errors
from potstill.workers import Handler, json_handler
from quantize.quantization.file_types import FILE_TYPES, FileTypeName
from quantize.quantization.imatrix import Importance, read_importance


def quantize_file(
    source: Path,
    target: Path,
    file_type: FileTypeName,
    num_threads: int,
    *,
    imatrix_path: Path | None = None,
    tensor_types: Mapping[str, str] | None = None,
) -> None:
    """Quantize a file.

    Args:
        source: An F32, F16 or BF16 file.
        imatrix_path: An importance matrix in GGUF; None weights all inputs equally.
        tensor_types: ggml's type of each tensor by name, instead of the file type's own recipe. It
            must name all that are quantized: the recipe counts the tensors that it decides on.

    Raises:
        BackendError: llama.cpp refuses.
    """
    initialize()
    forget_errors()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[file_type].ftype
    params.nthread = num_threads
    if imatrix_path is not None:
        importance = read_importance(imatrix_path)
        params.imatrix = _imatrix(importance)
        params.kv_overrides = _overrides(importance.provenance)
    if tensor_types:
        params.tt_overrides = _tensor_overrides(tensor_types)
    code = llama_cpp.llama_model_quantize(
        str(source).encode(), str(target).encode(), ctypes.byref(params)
    )
    if code != 0:
        raise BackendError(
            "llama.cpp cannot quantize a file",
            where=source,
            found=f"{quoted_errors()}; llama_model_quantize returned {code}",
        )


def service() -> Handler:
    """Return the handler of requests to quantize a file, for `potstill.workers`."""
    return json_handler(_quantize)


def _quantize(request: dict[str, Any]) -> dict[str, Any]:
    paths = {
        name: request[name] and Path(request[name]) for name in ("source", "target", "imatrix_path")
    }
    quantize_file(**(request | paths))
    return {}


def _imatrix(importance: Importance) -> Any:  # noqa: ANN401  (a ctypes array)
    entries = (llama_cpp.llama_model_imatrix_data * (len(importance.mean_squares) + 1))()
    for entry, (name, mean_squares_C) in zip(
        entries, importance.mean_squares.items(), strict=False
    ):
        values = (ctypes.c_float * mean_squares_C.size).from_buffer_copy(mean_squares_C.tobytes())
        entry.name, entry.data, entry.size = name.encode(), values, len(values)
    return entries


def _overrides(keys: Mapping[str, str | int]) -> Any:  # noqa: ANN401
    overrides = (llama_cpp.llama_model_kv_override * (len(keys) + 1))()
    for override, (name, value) in zip(overrides, keys.items(), strict=False):
        override.key = name.encode()
        if isinstance(value, int):
            override.tag = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_INT
            override.value.val_i64 = value
        else:
            override.tag = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_STR
            override.value.val_str = value.encode()
    return overrides


def _tensor_overrides(tensor_types: Mapping[str, str]) -> Any:  # noqa: ANN401
    from gguf import GGMLQuantizationType

    overrides = (llama_cpp.llama_model_tensor_override * (len(tensor_types) + 1))()
    for override, (name, tensor_type) in zip(overrides, tensor_types.items(), strict=False):
        override.pattern = f"^{re.escape(name)}$".encode()
        override.type = GGMLQuantizationType[tensor_type].value
    return overrides
