"""Facts of the stage `comparison`."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from potstill.facts.base import Facts, Record, StageName
from potstill.facts.memorization import Memorization
from potstill.facts.shared import FidelityFigures, Role


class ModelRow(FidelityFigures):
    """One model's fidelity to the teacher on held-out conversations."""

    name: str
    role: Role
    step: str
    """The step that made it: "sampled", "pruned", "trained", a quantization type, "served"."""
    num_parameters: int
    nats_per_token: float | None
    """As in `Fidelity`, over the student's own tokens where it has others; None where a file of
    such a student was not measured."""


class FileRow(ModelRow):
    """A GGUF file, which has a size and a speed as well."""

    bytes: int
    tokens_per_second: float
    time_to_first_token_seconds: float
    num_timed_answers: int
    """Answers behind both medians."""
    size_ratio: float
    """Bytes over those of the reference teacher file."""
    speed_ratio: float
    """Tokens per second over those of the reference teacher file."""


class Registration(Record):
    """The plan, fixed before the answers were collected."""

    verdict: dict[str, Any]
    """The table `compare.verdict`."""
    gate: tuple[dict[str, Any], ...] = ()
    """The tables `compare.gate`; empty where the judge that decides is the only requirement."""
    registered_at: str
    """UTC."""
    num_answers_before: int
    """Answers cached from another comparison, which could have been read before the plan."""


class GateFact(Record):
    """A requirement of the gate and its outcome."""

    name: str
    required: bool
    outcome: Literal["PASS", "FAIL", "INCONCLUSIVE", "INVALID_JUDGE"]


class ComparisonFacts(Facts):
    """The verdict, and how it was planned."""

    stage: ClassVar[StageName] = "comparison"

    recommended: str
    """The student: a file's name, or a model behind an endpoint."""
    reference: str
    """The teacher: its largest file, or a model behind an endpoint."""
    outcome: Literal["PASS", "FAIL", "INCONCLUSIVE", "INVALID_JUDGE"]
    gate: tuple[GateFact, ...] = ()
    """All requirements; the outcome is PASS if all that are required pass."""
    registration: Registration
    rows: tuple[FileRow | ModelRow, ...]
    """Empty where two endpoints were compared."""
    memorization: Memorization | None = None
    """What the recommended file gives back of its training answers; None: not measured."""

    @property
    def recommended_row(self) -> FileRow | None:
        """The row of the recommended file; None where two endpoints were compared."""
        rows = (row for row in self.rows if isinstance(row, FileRow))
        return next((row for row in rows if row.name == self.recommended), None)
