"""Cost as numbers: what a page needs to show it.

In: nothing but values. Out: typed sections of report.json. Knows nothing of how they are computed.
"""

from __future__ import annotations

from typing import Literal

from potstill.schema import Value


class CostRow(Value):
    """What a model takes, and what a million output tokens of it cost; None is not known."""

    name: str
    kind: Literal["student", "teacher", "api"]
    tokens_per_second: float | None = None
    """For one user."""
    bytes: int | None = None
    """Of the model's file."""
    peak_memory_bytes: int | None = None
    """Of the process that measured the file."""
    dollars_per_million_output_tokens: float | None
    """With the prompts that go with them."""
    at_full_use: float | None = None
    """The same were the machine never idle; None for an API, which is paid by the token."""
    ratio_to_student: float | None = None
    """This price over the student's."""
    break_even_utilization: float | None = None
    """Share of the time that the student's machine must write to be as cheap as this row; above 1
    it cannot be. None for the student itself."""
    break_even_tokens_per_month: float | None = None
    """The same as output tokens in 730 hours."""


class Cost(Value):
    """What both models take, with prices where the machine's is told."""

    machine_dollars_per_hour: float | None
    teacher_dollars_per_hour: float | None
    """Of the teacher's machine."""
    utilization: float
    """Share of the time that the machine writes."""
    rows: tuple[CostRow, ...]
