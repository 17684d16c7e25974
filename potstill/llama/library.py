"""llama.cpp's library: initialized once, quiet, with its error messages kept for exceptions."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import llama_cpp

from potstill.processor import has_amx

logger = logging.getLogger(__name__)

ERROR_LEVEL = 4
"""GGML_LOG_LEVEL_ERROR (llama.cpp 0c1e57098, ggml.h)."""

MAX_QUOTED_ERRORS = 3
"""Error messages that an exception quotes; the first one names the cause."""

_errors: list[str] = []


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _log(level: int, text: bytes, _user_data: Any) -> None:  # noqa: ANN401  (a C pointer)
    line = text.decode(errors="replace").strip()
    logger.debug("%s", line)
    if level == ERROR_LEVEL and line and len(_errors) < MAX_QUOTED_ERRORS:
        _errors.append(line)


@cache
def initialize() -> None:
    """Start llama.cpp's backends and send its messages to the log at DEBUG."""
    llama_cpp.llama_log_set(_log, None)
    llama_cpp.llama_backend_init()


def forget_errors() -> None:
    """Drop the kept error messages, before something that may fail."""
    _errors.clear()


def quoted_errors() -> str:
    """Return the first error messages since `forget_errors`."""
    return "; ".join(_errors) or "llama.cpp gave no reason"


def model_params(*, for_measurement: bool = False, repacks: bool = True) -> Any:  # noqa: ANN401  (a ctypes struct)
    """Return the parameters with which a model is loaded; AMX kernels are off where they crash.

    Args:
        for_measurement: Stay on the CPU, and refuse invalid blocks such as scales that are not
            finite, for which the whole file is read.
        repacks: Whether weights may be copied into formats that compute faster.
    """
    params = llama_cpp.llama_model_default_params()
    params.use_extra_bufts = repacks and not has_amx()
    if for_measurement:
        params.n_gpu_layers = 0
        params.check_tensors = True
    return params
