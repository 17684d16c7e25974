"""The estimated cost of a run: tokens, minutes, disk and memory of each stage.

In: the estimates of the stages' rooms, and the measured speed of this machine. Out: a rich table.
docs/training.md compares estimated with measured times.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from rich.console import Group
from rich.table import Table

from potstill.checkpoints import ModelShape
from potstill.workers import Worker

PROBE = "train.speed:probe"
"""The service that measures this machine, in a child process because it needs torch."""
PROBE_SECONDS = 120.0
"""How long it may take, on a machine that is busy."""


@dataclass(frozen=True)
class Machine:
    """The measured speed of this machine, see `train.speed`."""

    fast_flops: float
    """Floating-point operations per second when an MLP is trained in bfloat16, or in float32 where
    the processor does not multiply bfloat16 natively."""
    float32_flops: float
    """The same in float32 in any case."""
    bytes_per_second: float
    """Memory bandwidth, of reading and writing together."""


@dataclass(frozen=True)
class AskedTask:
    """The known answers that a task is measured on, all lengths in tokens."""

    num_references: int = 0
    """Prompts with known answers; 0: none is measured."""
    prompt_tokens: float = 0.0
    """Mean length of a prompt without what the task puts before it."""
    answer_tokens: float = 0.0
    """Mean length of a known answer."""
    teacher_tokens: float = 0.0
    """Instructions, tools and examples in the teacher's prompt."""
    student_tokens: float = 0.0
    """Instructions and tools in the student's."""
    num_shots: int = 0
    """Examples in the teacher's prompt."""
    has_metric: bool = True
    """Whether a metric scores the answers; else judges compare them."""


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
    shared_tokens: float = 0.0
    """The beginning that all prompts have in common, such as a system prompt."""
    test_share: float = 0.0
    num_files: int = 0
    """GGUF files."""
    task: AskedTask = AskedTask()
    """What the comparison asks."""
    text_only: bool = False
    """Whether the teacher gives text alone: its shape is then that of the student's checkpoint."""


@dataclass(frozen=True)
class Estimate:
    """What one stage will cost."""

    stage: str
    tokens: float
    """Tokens that a model computes; what an engine has cached is not computed again."""
    share_of_peak: float
    """Operations per second over those that `Machine` has."""
    fixed_seconds: float
    """Loading, saving and checking."""
    disk_bytes: float
    memory_bytes: float
    fast_flops: float = 0.0
    """Floating-point operations in bfloat16, where the processor multiplies it natively."""
    float32_flops: float = 0.0
    moved_bytes: float = 0.0
    """Bytes read from and written to memory where that limits the time: weights, for each decoded
    token, and the tensors of an optimizer step."""
    price: float = 0.0
    """Of requests to other servers, in the currency of their configured prices."""
    price_per_hour: float = 0.0
    """Of this machine; 0 where none is configured."""
    notes: tuple[str, ...] = ()
    """What the stage's result depends on, in sentences."""

    def seconds(self, machine: Machine) -> float:
        """Return how long the stage will take."""
        computing = self.fast_flops / machine.fast_flops
        computing += self.float32_flops / machine.float32_flops
        moving = self.moved_bytes / machine.bytes_per_second
        return self.fixed_seconds + computing / self.share_of_peak + moving

    def total_price(self, machine: Machine | None) -> float:
        """Return the price of requests, and of this machine where both price and time are known."""
        hours = self.seconds(machine) / 3600 if machine else 0.0
        return self.price + hours * self.price_per_hour


def measure_machine(model: ModelShape) -> Machine | None:
    """Measure this machine for a few seconds, at the sizes of a model's matrices.

    Returns:
        None with a GPU, for which the stages' shares of the peak are not known, or without torch.
    """
    if shutil.which("nvidia-smi") or find_spec("torch") is None:
        return None
    neurons = model.intermediate_size or 4 * model.hidden_size
    with Worker(PROBE, model.hidden_size, neurons) as worker:
        return Machine(**worker.ask_json({}, PROBE_SECONDS))


def plan_table(
    estimates: Iterable[Estimate], finished: Iterable[str], machine: Machine | None
) -> Group:
    """Return the estimates as a table, with the stages' notes below it.

    Args:
        finished: Stages that have a result already and will be skipped.
        machine: None leaves the minutes out.
    """
    every, skipped = list(estimates), set(finished)
    rows = [row for row in every if row.stage not in skipped]
    has_price = any(row.total_price(machine) for row in rows)
    notes = [note for row in rows for note in row.notes]
    table = Table(title="what the run will cost, estimated", show_edge=False)
    for heading in ("stage", "tokens", "minutes", "disk", "memory", *["price"] * has_price):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for row in every:
        if row.stage in skipped:
            table.add_row(row.stage, "finished")
        else:
            table.add_row(row.stage, f"{row.tokens:,.0f}", *_cells([row], machine, has_price))
    if len(rows) > 1:
        table.add_section()
        table.add_row("total", "", *_cells(rows, machine, has_price))
    return Group(table, *notes)


def _cells(rows: Sequence[Estimate], machine: Machine | None, has_price: bool) -> list[str]:
    return [
        _minutes(rows, machine),
        _gigabytes(sum(row.disk_bytes for row in rows)),
        _gigabytes(max(row.memory_bytes for row in rows)),
        *[f"{sum(row.total_price(machine) for row in rows):,.2f}"] * has_price,
    ]


def _minutes(rows: Iterable[Estimate], machine: Machine | None) -> str:
    if machine is None:
        return "-"
    return f"{sum(row.seconds(machine) for row in rows) / 60:.1f}"


def _gigabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.2f} GB"
