"""The estimated cost of a run: tokens, minutes, disk and memory of each stage.

In: the stages' estimates, and the measured speed of this machine. Out: a rich table.
docs/explanation/time-and-memory.md compares estimated with measured times.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec

from rich.console import Group
from rich.table import Table

from potstill.cards import Cards
from potstill.checkpoints import ModelShape
from potstill.workers import Worker, WorkerTimeoutError

logger = logging.getLogger(__name__)

PROBE = "train.speed:probe"
"""The service that measures this machine, in a child process because it needs torch."""
PROBE_SECONDS = 120.0
"""How long it may take, on a machine that is busy."""
WIDEST, MOST_NEURONS = 2048, 8192
"""Sizes of the largest MLP that is measured: products of larger matrices are no faster, and those
of a teacher for eight GPUs would take minutes and more memory than a small machine has."""
SHARE_OF_DATASHEET = 0.5
"""Of a card's FLOP/s, what products of an MLP reach while it is trained. Assumed: no card was
measured."""
SHARE_OF_BANDWIDTH = 0.8
"""The same of its memory bandwidth."""


@dataclass(frozen=True)
class Machine:
    """The speed of a machine: this one's measured (`train.speed`), or that of cards."""

    fast_flops: float
    """Floating-point operations per second when an MLP is trained in bfloat16, or in float32 where
    the processor does not multiply bfloat16 natively."""
    float32_flops: float
    """The same in float32 in any case."""
    bytes_per_second: float
    """Memory bandwidth, of reading and writing together."""
    largest_share: float = math.inf
    """The most of these operations that a stage can reach."""

    @classmethod
    def of_cards(cls, cards: Cards, number: int | None) -> Machine:
        """Return the speed of so many of the cards, at most all; None: all."""
        used = min(cards.number, number or cards.number)
        flops = used * SHARE_OF_DATASHEET
        return cls(
            fast_flops=flops * cards.card.bfloat16_flops,
            float32_flops=flops * cards.card.float32_flops,
            bytes_per_second=used * SHARE_OF_BANDWIDTH * cards.card.bytes_per_second,
            largest_share=1.0,
        )


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
    bytes_to_fetch: float = 0.0
    """Weights that are fetched into the cache of the Hugging Face hub first."""
    num_cards: int | None = 0
    """GPUs that it computes on where there are some; None: all. 0: it takes the processor."""
    card_bytes: float = 0.0
    """Memory on each of them."""
    sharded_bytes: float = 0.0
    """Memory that they divide among them."""
    first_card_bytes: float = 0.0
    """The least memory on the first of them, however many there are."""
    card_moved_bytes: float = 0.0
    """Bytes moved on GPUs besides `moved_bytes`: keys and values of former tokens."""

    def seconds(self, machine: Machine) -> float:
        """Return how long the stage will take."""
        computing = self.fast_flops / machine.fast_flops
        computing += self.float32_flops / machine.float32_flops
        moving = self.moved_bytes / machine.bytes_per_second
        if computing:  # None on a server, of whose model nothing is known.
            computing /= min(self.share_of_peak, machine.largest_share)
        return self.fixed_seconds + computing + moving

    def placed(self, machine: Machine | None, cards: Cards | None) -> Placed:
        """Return the estimate where it will run: on the cards, or else on this machine."""
        if cards is None or self.num_cards == 0:
            return Placed(self, machine)
        on_cards = replace(self, moved_bytes=self.moved_bytes + self.card_moved_bytes)
        used = min(cards.number, self.num_cards or cards.number)
        return Placed(
            on_cards,
            Machine.of_cards(cards, self.num_cards),
            max(self.card_bytes + self.sharded_bytes / used, self.first_card_bytes),
        )

    def total_price(self, machine: Machine | None) -> float:
        """Return the price of requests, and of this machine where both price and time are known."""
        hours = self.seconds(machine) / 3600 if machine else 0.0
        return self.price + hours * self.price_per_hour


@dataclass(frozen=True)
class Placed:
    """A stage's estimate, with the speed of what computes it."""

    cost: Estimate
    machine: Machine | None
    """None where its speed is not known."""
    card_bytes: float = 0.0
    """Memory on each card; 0 on a processor."""

    @property
    def seconds(self) -> float | None:
        """How long it will take."""
        return None if self.machine is None else self.cost.seconds(self.machine)

    @property
    def price(self) -> float:
        """The price, see `Estimate.total_price`."""
        return self.cost.total_price(self.machine)


def measure_machine(model: ModelShape) -> Machine | None:
    """Measure this machine's processor for a few seconds, at the sizes of a model's matrices.

    Of large models the sizes are `WIDEST` and `MOST_NEURONS`.

    Returns:
        None without torch, or where other programs leave too little of the machine to measure it.
    """
    if find_spec("torch") is None:
        return None
    logger.info("measuring this machine for a few seconds, to estimate times")
    neurons = model.intermediate_size or 4 * model.hidden_size
    arguments = min(model.hidden_size, WIDEST), min(neurons, MOST_NEURONS)
    try:
        with Worker(PROBE, *arguments, start_seconds=PROBE_SECONDS) as worker:
            return Machine(**worker.ask_json({}, PROBE_SECONDS))
    except WorkerTimeoutError:
        logger.warning("this machine is too busy to be measured: no minutes are estimated")
        return None


def plan_table(
    estimates: Iterable[Estimate],
    finished: Iterable[str],
    machine: Machine | None,
    cards: Cards | None = None,
) -> Group:
    """Return the estimates as a table, with the stages' notes below it.

    Args:
        finished: Stages that have a result already and will be skipped.
        machine: This machine's processor. None leaves its minutes out.
        cards: GPUs for the stages that use some.
    """
    skipped = set(finished)
    every = [cost.placed(machine, cards) for cost in estimates]
    rows = [row for row in every if row.cost.stage not in skipped]
    has_price = any(row.price for row in rows)
    headings = ["stage", "tokens", "minutes", "disk", "memory"]
    headings += ["on each card"] * (cards is not None) + ["price"] * has_price
    table = Table(title="what the run will cost, estimated", show_edge=False)
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for row in every:
        if row.cost.stage in skipped:
            table.add_row(row.cost.stage, "finished")
        else:
            cells = _cells([row], cards is not None, has_price)
            table.add_row(row.cost.stage, f"{row.cost.tokens:,.0f}", *cells)
    if len(rows) > 1:
        table.add_section()
        table.add_row("total", "", *_cells(rows, cards is not None, has_price))
    notes = [_note_of_fetching(row.cost) for row in rows if row.cost.bytes_to_fetch]
    if cards is not None:
        notes += _notes_of_cards(rows, cards)
    notes += [note for row in rows for note in row.cost.notes]
    return Group(table, *notes)


def _note_of_fetching(cost: Estimate) -> str:
    return (
        f"{cost.stage} first fetches a model of {_gigabytes(cost.bytes_to_fetch)} into the cache "
        "of the Hugging Face hub, which is in none of these figures."
    )


def _notes_of_cards(rows: Sequence[Placed], cards: Cards) -> list[str]:
    return [
        f"Minutes of stages on cards are computed from the datasheet of {cards.number} x "
        f"{cards.name} and were not measured; the others are this machine's.",
        *misfits(rows, cards),
    ]


def misfits(rows: Iterable[Placed], cards: Cards) -> list[str]:
    """Return a sentence for each stage that the cards have too little memory or number for."""
    notes = []
    limit = cards.card.memory_bytes
    for row in rows:
        if row.card_bytes > limit:
            notes.append(
                f"{row.cost.stage} does not fit: {_gigabytes(row.card_bytes)} on each card, where "
                f"{cards.name} has {_gigabytes(limit)}; see docs/how-to/gpu.md for what makes it "
                "smaller."
            )
        if (row.cost.num_cards or 0) > cards.number:
            notes.append(
                f"{row.cost.stage} is configured for {row.cost.num_cards} cards, found "
                f"{cards.number}: see [machine] and generate.engine.tensor_parallel_size."
            )
    return notes


def _cells(rows: Sequence[Placed], has_cards: bool, has_price: bool) -> list[str]:
    on_host = [row.cost.memory_bytes for row in rows if not row.card_bytes]
    on_cards = max(row.card_bytes for row in rows)
    return [
        _minutes(rows),
        _gigabytes(sum(row.cost.disk_bytes for row in rows)),
        _gigabytes(max(on_host)) if on_host else "-",
        *[_gigabytes(on_cards) if on_cards else "-"] * has_cards,
        *[f"{sum(row.price for row in rows):,.2f}"] * has_price,
    ]


def _minutes(rows: Iterable[Placed]) -> str:
    seconds = [row.seconds for row in rows]
    known = [one for one in seconds if one is not None]
    return f"{sum(known) / 60:.1f}" if len(known) == len(seconds) else "-"


def _gigabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.2f} GB"
