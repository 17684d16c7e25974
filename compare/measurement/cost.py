"""What a million output tokens cost.

In: speeds, a machine's price, how busy it is, prices of APIs. Out: `Cost`. Pure arithmetic: knows
nothing of how speed was measured. A machine's price is for all it does, so prompts are in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from compare.measurement.config import ApiPrice, CostConfig
from compare.report.cost import Cost, CostRow

SECONDS_PER_HOUR = 3600.0
HOURS_PER_MONTH = 730.0
MILLION = 1e6


@dataclass(frozen=True)
class Running:
    """A model on the machine."""

    name: str
    tokens_per_second: float
    """Output tokens, of all that it answers at once."""
    bytes: int | None = None
    peak_memory_bytes: int | None = None


def dollars_per_million_tokens(
    dollars_per_hour: float, tokens_per_second: float, utilisation: float
) -> float:
    """Return the price of a million output tokens of a machine that writes part of the time."""
    return dollars_per_hour * MILLION / (tokens_per_second * SECONDS_PER_HOUR * utilisation)


def break_even_utilisation(
    dollars_per_hour: float, tokens_per_second: float, dollars_per_million: float
) -> float | None:
    """Return how busy a machine must be for its tokens to cost no more than a price.

    Returns:
        None: The price is 0, which no machine reaches.
    """
    if dollars_per_million <= 0:
        return None
    return dollars_per_million_tokens(dollars_per_hour, tokens_per_second, 1.0) / (
        dollars_per_million
    )


def price(
    config: CostConfig,
    student: Running,
    teacher: Running | None,
    prompt_tokens_per_output_token: float,
) -> Cost | None:
    """Return the prices of the student, the teacher and each API.

    Args:
        teacher: None where the teacher does not run on this machine.
        prompt_tokens_per_output_token: How long prompts are beside answers: an API asks for both.

    Returns:
        None: The machine's price is not told.
    """
    dollars = config.machine_dollars_per_hour
    if dollars is None:
        return None
    own = dollars_per_million_tokens(dollars, student.tokens_per_second, config.utilisation)
    rows = [_machine_row(config, dollars, student, "student", own)]
    if teacher is not None:
        teachers = dollars_per_million_tokens(
            dollars, teacher.tokens_per_second, config.utilisation
        )
        rows.append(_machine_row(config, dollars, teacher, "teacher", teachers, (student, own)))
    rows += [
        _api_row(api, dollars, (student, own), prompt_tokens_per_output_token)
        for api in config.apis
    ]
    return Cost(machine_dollars_per_hour=dollars, utilisation=config.utilisation, rows=tuple(rows))


def _machine_row(
    config: CostConfig,
    dollars: float,
    model: Running,
    kind: str,
    asked: float,
    student: tuple[Running, float] | None = None,
) -> CostRow:
    return CostRow(
        name=model.name,
        kind=kind,
        dollars_per_million_output_tokens=asked,
        at_full_use=asked * config.utilisation,
        tokens_per_second=model.tokens_per_second,
        bytes=model.bytes,
        peak_memory_bytes=model.peak_memory_bytes,
        **_against(dollars, student, asked),
    )


def _api_row(
    api: ApiPrice, dollars: float, student: tuple[Running, float], prompt_tokens: float
) -> CostRow:
    asked = (
        api.dollars_per_million_output_tokens + prompt_tokens * api.dollars_per_million_input_tokens
    )
    return CostRow(
        name=api.name,
        kind="api",
        dollars_per_million_output_tokens=asked,
        at_full_use=None,
        tokens_per_second=None,
        bytes=None,
        peak_memory_bytes=None,
        **_against(dollars, student, asked),
    )


def _against(
    dollars: float, student: tuple[Running, float] | None, asked: float
) -> dict[str, float | None]:
    if student is None:
        return dict.fromkeys(
            ("ratio_to_student", "break_even_utilisation", "break_even_tokens_per_month")
        )
    model, own = student
    share = break_even_utilisation(dollars, model.tokens_per_second, asked)
    monthly = HOURS_PER_MONTH * SECONDS_PER_HOUR * model.tokens_per_second
    return {
        "ratio_to_student": asked / own,
        "break_even_utilisation": share,
        "break_even_tokens_per_month": None if share is None else share * monthly,
    }
