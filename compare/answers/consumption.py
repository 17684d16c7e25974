"""What answering costs this machine: time, processor time and, where it can be read, energy.

In: processes of this machine and the processor's energy counters. Out: `Consumption`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from potstill.schema import Value

COUNTERS_DIR = Path("/sys/class/powercap")
"""Linux: energy counters (RAPL) of processors by Intel and AMD; most clouds hide them."""
MICROJOULES = 1e6


class Consumption(Value):
    """What a number of answers took."""

    num_answers: int = 0
    seconds: float = 0.0
    """With as many requests at once as the comparison allows."""
    processor_seconds: float | None = 0.0
    """Of the process that served the model; None where the system does not say."""
    joules: float | None = 0.0
    """Of the processors' packages, whatever else they did; None where it cannot be read."""

    def __add__(self, other: Consumption) -> Consumption:
        """Return both together."""
        return Consumption(
            num_answers=self.num_answers + other.num_answers,
            seconds=self.seconds + other.seconds,
            processor_seconds=_sum(self.processor_seconds, other.processor_seconds),
            joules=_sum(self.joules, other.joules),
        )


@dataclass
class Meter:
    """What was used inside a `with` block; filled in at its end."""

    seconds: float = 0.0
    processor_seconds: float | None = None
    joules: float | None = None
    counters: dict[Path, int] = field(default_factory=dict)


@contextmanager
def metered() -> Iterator[Meter]:
    """Measure time, the processor time of this process's children, and energy."""
    meter = Meter(counters=read_counters())
    started, children = time.perf_counter(), children_seconds()
    try:
        yield meter
    finally:
        meter.seconds = time.perf_counter() - started
        ended = children_seconds()
        if children is not None and ended is not None:
            meter.processor_seconds = max(0.0, ended - children)
        meter.joules = joules_since(meter.counters)


def read_counters(directory: Path = COUNTERS_DIR) -> dict[Path, int]:
    """Return the energy counters of the processors' packages in microjoules; none if hidden."""
    found = {}
    for path in sorted(directory.glob("*-rapl:*/energy_uj")):
        is_package = path.parent.name.count(":") == 1
        if is_package:
            with suppress(OSError, ValueError):
                found[path] = int(path.read_text())
    return found


def joules_since(before: dict[Path, int]) -> float | None:
    """Return the energy since the counters were read; they begin again at their largest value."""
    if not before:
        return None
    total = 0
    try:
        for path, value in before.items():
            change = int(path.read_text()) - value
            if change < 0:
                change += int((path.parent / "max_energy_range_uj").read_text())
            total += change
    except (OSError, ValueError):
        return None
    return total / MICROJOULES


def children_seconds() -> float | None:
    """Return the processor time of this process's children; None where one ends meanwhile."""
    try:
        times = [child.cpu_times() for child in psutil.Process().children()]
    except psutil.Error:
        return None
    return float(sum(one.user + one.system for one in times))


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other
