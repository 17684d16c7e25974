"""What a run will cost, before it starts: tokens, minutes, disk and memory of each stage.

In: the estimates of the stages' rooms. Out: a rich table. The time comes from counting floating-
point operations and from how fast this machine multiplies matrices now; expect it within a factor
of two. Knows nothing of how a stage counts.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass

from rich.table import Table

from potstill.checkpoints import ModelShape

PROBE_SIZE = 1024
NUM_PROBES = 5


@dataclass(frozen=True)
class Workload:
    """What one stage's estimate passes on to the next."""

    teacher: ModelShape
    student: ModelShape
    num_conversations: int = 0
    prompt_tokens: float = 0.0
    """Mean length of a rendered prompt."""
    completion_tokens: float = 0.0
    """Mean length of a completion."""
    test_share: float = 0.0
    num_files: int = 0
    """GGUF files."""


@dataclass(frozen=True)
class Estimate:
    """What one stage will cost."""

    stage: str
    tokens: float
    """Tokens that go through a model."""
    flops: float
    """Floating-point operations."""
    share_of_peak: float
    """Operations per second over those of a float32 matrix product, as measured in the demo."""
    fixed_seconds: float
    """Loading, saving and checking."""
    disk_bytes: float
    memory_bytes: float


def matmul_flops_per_second() -> float:
    """Time products of float32 matrices with all CPUs and return the best of a few."""
    import numpy as np  # which most commands can do without

    random = np.random.default_rng(0)
    left = random.random((PROBE_SIZE, PROBE_SIZE), dtype=np.float32)
    seconds = []
    for _ in range(NUM_PROBES):
        started = time.perf_counter()
        left @ left.T
        seconds.append(time.perf_counter() - started)
    return 2.0 * PROBE_SIZE**3 / min(seconds)


def plan_table(
    estimates: Iterable[Estimate], finished: Iterable[str], speed: float | None
) -> Table:
    """Lay the estimates out.

    Args:
        finished: Stages that have a result already and will be skipped.
        speed: Floating-point operations per second of this machine; None leaves the minutes out.
    """
    table = Table(title="what the run will cost, estimated", show_edge=False)
    for heading in ("stage", "tokens", "minutes", "disk", "memory"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    skipped, rows = set(finished), []
    for row in estimates:
        if row.stage in skipped:
            table.add_row(row.stage, "finished")
            continue
        rows.append(row)
        table.add_row(
            row.stage,
            f"{row.tokens:,.0f}",
            "-" if speed is None else f"{_minutes(row, speed):.1f}",
            _gigabytes(row.disk_bytes),
            _gigabytes(row.memory_bytes),
        )
    if rows:
        table.add_section()
        table.add_row(
            "in all",
            "",
            "-" if speed is None else f"{sum(_minutes(row, speed) for row in rows):.1f}",
            _gigabytes(sum(row.disk_bytes for row in rows)),
            _gigabytes(max(row.memory_bytes for row in rows)),
        )
    return table


def machine_speed() -> float | None:
    """Return what `plan_table` wants: None on a machine with a GPU, where the CPU says nothing."""
    return None if shutil.which("nvidia-smi") else matmul_flops_per_second()


def _minutes(row: Estimate, speed: float) -> float:
    return (row.fixed_seconds + row.flops / (speed * row.share_of_peak)) / 60


def _gigabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.2f} GB"
