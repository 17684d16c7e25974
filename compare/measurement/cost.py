"""The cost of a million output tokens.

In: speeds, a machine's price and utilization, prices of APIs. Out: `Cost`. A machine's price
includes reading the prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compare.cost_config import CostConfig
from potstill.schema import Value

SECONDS_PER_HOUR = 3600.0
HOURS_PER_MONTH = 730.0
MILLION = 1e6


@dataclass(frozen=True)
class Running:
    """A served model."""

    name: str
    tokens_per_second: float | None
    """Output tokens; None where speed could not be measured."""
    is_here: bool = True
    """Whether it runs on the machine with the given price."""
    bytes: int | None = None
    peak_memory_bytes: int | None = None


class CostRow(Value):
    """A model's resources and cost; None is unknown."""

    name: str
    kind: Literal["student", "teacher", "api"]
    tokens_per_second: float | None = None
    """For one user."""
    bytes: int | None = None
    """Of the model's file."""
    peak_memory_bytes: int | None = None
    """Of the process that measured the file."""
    dollars_per_million_output_tokens: float | None
    """Including their prompts."""
    at_full_use: float | None = None
    """The same at full utilization; None for an API, which is paid by the token."""
    ratio_to_student: float | None = None
    """This price over the student's."""
    break_even_utilization: float | None = None
    """Utilization at which the student's machine costs as much as this row; above 1 it never does.
    None for the student itself."""
    break_even_tokens_per_month: float | None = None
    """The same as output tokens in 730 hours."""


class Cost(Value):
    """Resources of both models, with costs where the machine's price is given."""

    machine_dollars_per_hour: float | None
    teacher_dollars_per_hour: float | None
    """Of the teacher's machine."""
    utilization: float
    """Share of the time that the machine decodes."""
    rows: tuple[CostRow, ...]
    """The student, the teacher, then each API."""


def dollars_per_million_tokens(
    dollars_per_hour: float, tokens_per_second: float, utilization: float
) -> float:
    """Return the price of a million output tokens of a machine at a utilization."""
    return dollars_per_hour * MILLION / (tokens_per_second * SECONDS_PER_HOUR * utilization)


def price(
    config: CostConfig, student: Running, teacher: Running, prompt_tokens_per_output_token: float
) -> Cost:
    """Return the costs of the student, the teacher and each API.

    Args:
        prompt_tokens_per_output_token: Ratio of lengths: an API charges for both.
    """
    teachers_machine = config.teacher_dollars_per_hour
    if teachers_machine is None and teacher.is_here:
        teachers_machine = config.machine_dollars_per_hour
    own = _machine_row(config, student, "student", config.machine_dollars_per_hour)
    others = [_machine_row(config, teacher, "teacher", teachers_machine)]
    others += [
        CostRow(
            name=api.name,
            kind="api",
            dollars_per_million_output_tokens=api.dollars_per_million_output_tokens
            + prompt_tokens_per_output_token * api.dollars_per_million_input_tokens,
        )
        for api in config.apis
    ]
    return Cost(
        machine_dollars_per_hour=config.machine_dollars_per_hour,
        teacher_dollars_per_hour=teachers_machine,
        utilization=config.utilization,
        rows=(own, *(_against(own, row) for row in others)),
    )


def _machine_row(
    config: CostConfig,
    model: Running,
    kind: Literal["student", "teacher"],
    dollars_per_hour: float | None,
) -> CostRow:
    full = None
    if dollars_per_hour is not None and model.tokens_per_second is not None:
        full = dollars_per_million_tokens(dollars_per_hour, model.tokens_per_second, 1.0)
    return CostRow(
        name=model.name,
        kind=kind,
        tokens_per_second=model.tokens_per_second,
        bytes=model.bytes,
        peak_memory_bytes=model.peak_memory_bytes,
        dollars_per_million_output_tokens=None if full is None else full / config.utilization,
        at_full_use=full,
    )


def _against(student: CostRow, row: CostRow) -> CostRow:
    """Return a row with its ratio to the student's; no machine reaches a price of 0."""
    own, asked = (one.dollars_per_million_output_tokens for one in (student, row))
    if own is None or student.at_full_use is None or student.tokens_per_second is None or not asked:
        return row
    share = student.at_full_use / asked
    monthly = HOURS_PER_MONTH * SECONDS_PER_HOUR * student.tokens_per_second
    return row.model_copy(
        update={
            "ratio_to_student": asked / own,
            "break_even_utilization": share,
            "break_even_tokens_per_month": share * monthly,
        }
    )
