"""The [compare.cost] table: what the machine and the alternatives cost.

In: values from TOML or `--set`. Out: a validated, frozen table.
"""

from __future__ import annotations

from pydantic import Field

from potstill.config import Table


class ApiPrice(Table):
    """A priced API that the student could replace."""

    name: str = Field(min_length=1)
    """Name of the row."""
    dollars_per_million_output_tokens: float = Field(ge=0.0)
    """Price of a million output tokens."""
    dollars_per_million_input_tokens: float = Field(default=0.0, ge=0.0)
    """Price of a million input tokens."""


class CostConfig(Table):
    """What a million output tokens cost, on this machine and elsewhere."""

    machine_dollars_per_hour: float | None = Field(default=None, gt=0.0)
    """Price of the student's machine. None omits costs: there is no sensible default."""
    teacher_dollars_per_hour: float | None = Field(default=None, gt=0.0)
    """Price of the teacher's machine. None takes the student's for a teacher that is a file of the
    run; a teacher served elsewhere then has no price, and an API has its row in `apis`."""
    utilization: float = Field(default=0.2, gt=0.0, le=1.0)
    """Share of the time that the machine decodes. Few services are busy day and night, and an idle
    machine costs the same: at 0.2 a token costs five times as much as at full utilization."""
    watts_per_cpu: float = Field(default=4.0, gt=0.0)
    """Power of a busy logical CPU, for machines whose energy counters cannot be read; the energy is
    then called an estimate. A server processor of 350 W has about a hundred."""
    apis: tuple[ApiPrice, ...] = ()
    """Further rows of the cost table."""
