"""Cost as numbers: what a page needs to show it.

In: nothing but values. Out: typed sections of report.json. Knows nothing of how they are computed.
"""

from __future__ import annotations

from potstill.schema import Value


class CostRow(Value):
    """What a million output tokens cost."""

    name: str
    kind: str
    """"student", "teacher" or "api"."""
    dollars_per_million_output_tokens: float
    """With the prompts that go with them."""
    at_full_use: float | None
    """The same were the machine never idle; None for an API, which is paid by the token."""
    tokens_per_second: float | None
    bytes: int | None
    """Of the model's file."""
    peak_memory_bytes: int | None
    """Of the process that measured the file; None where nobody measured it."""
    ratio_to_student: float | None
    """This price over the student's."""
    break_even_utilisation: float | None
    """Share of the time that the student's machine must write to be as cheap as this row; above 1
    it cannot be. None for the student itself."""
    break_even_tokens_per_month: float | None
    """The same as output tokens in 730 hours."""


class Cost(Value):
    """Prices at a stated machine price and utilisation."""

    machine_dollars_per_hour: float
    utilisation: float
    """Share of the time that the machine writes."""
    rows: tuple[CostRow, ...]
