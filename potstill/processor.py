"""Properties of this machine's processor and memory that matter to several stages."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

CPUINFO_PATH = Path("/proc/cpuinfo")


def has_amx() -> bool:
    """Return whether the processor has Intel's matrix tiles (AMX), on which llama.cpp crashes.

    Where a compiler has optimized the tiles' configuration away, the first product of a quantized
    matrix ends the process (github.com/ggml-org/llama.cpp/issues/20824, seen with llama-cpp-python
    0.3.36). `-fno-dse` keeps it, but oneDNN resets it: after a product of PyTorch in bfloat16, the
    next one of llama.cpp in the same thread is an invalid instruction. Models loaded with
    `use_extra_bufts = False` do not use tiles.
    """
    return "amx_tile" in features()


@cache
def features() -> frozenset[str]:
    """Return the names of the processor's features as Linux lists them; none elsewhere."""
    try:
        lines = CPUINFO_PATH.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return frozenset()
    found = (line.partition(":")[2].split() for line in lines if line.startswith("flags"))
    return frozenset(next(found, ()))


def memory_bytes() -> int:
    """Return this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def usable_cpus() -> frozenset[int]:
    """Return the logical CPUs that this process may use; all, where the system cannot say."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def usable_threads(num_threads: int | None = None) -> int:
    """Return the configured number of threads; for 0 or None, as many as this process may use."""
    return num_threads or len(usable_cpus())
