"""What this machine's processor can do, as far as it matters to several stages.

In: what Linux says of it. Out: yes or no. Knows nothing of what it is asked for.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

CPUINFO_PATH = Path("/proc/cpuinfo")


@cache
def has_amx() -> bool:
    """Tell whether it has Intel's matrix tiles, on which llama.cpp crashes.

    Where a compiler has optimized the tiles' configuration away, the first product of a quantized
    matrix ends the process (github.com/ggml-org/llama.cpp/issues/20824, seen with llama-cpp-python
    0.3.36). Models loaded with `use_extra_bufts = False` do not use tiles.
    """
    try:
        lines = CPUINFO_PATH.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return False
    return any(line.startswith("flags") and " amx_tile" in line for line in lines)
