"""Properties of this machine's processor that matter to several stages."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

CPUINFO_PATH = Path("/proc/cpuinfo")


@cache
def has_amx() -> bool:
    """Return whether the processor has Intel's matrix tiles (AMX), on which llama.cpp crashes.

    Where a compiler has optimized the tiles' configuration away, the first product of a quantized
    matrix ends the process (github.com/ggml-org/llama.cpp/issues/20824, seen with llama-cpp-python
    0.3.36). Models loaded with `use_extra_bufts = False` do not use tiles.
    """
    try:
        lines = CPUINFO_PATH.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return False
    return any(line.startswith("flags") and " amx_tile" in line for line in lines)


def usable_threads(num_threads: int | None = None) -> int:
    """Return the configured number of threads; for 0 or None, as many as this process may use."""
    return num_threads or len(os.sched_getaffinity(0))
