"""The machine that speed was measured on.

In: the operating system. Out: `Machine`.
"""

from __future__ import annotations

import platform
from pathlib import Path

from potstill.processor import memory_bytes, usable_threads
from potstill.schema import Value


class Machine(Value):
    """What tokens per second depend on."""

    cpu: str
    num_cpus: int
    """Logical CPUs this process may use."""
    memory_bytes: int
    platform: str


def describe_machine() -> Machine:
    """Describe the machine this process runs on."""
    return Machine(
        cpu=_cpu_name(),
        num_cpus=usable_threads(),
        memory_bytes=memory_bytes(),
        platform=platform.platform(),
    )


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())
