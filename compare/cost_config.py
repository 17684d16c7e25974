"""The [compare.cost] table: what the machine and the alternatives cost.

In: values from TOML or `--set`. Out: a validated, frozen table. Knows nothing of measurements.
"""

from __future__ import annotations

from pydantic import Field

from potstill.config import Table


class ApiPrice(Table):
    """A priced API that the student could stand in for."""

    name: str = Field(min_length=1)
    """What the row is called."""
    dollars_per_million_output_tokens: float = Field(ge=0.0)
    """Price of a million output tokens."""
    dollars_per_million_input_tokens: float = Field(default=0.0, ge=0.0)
    """Price of a million input tokens."""


class CostConfig(Table):
    """What a million output tokens cost, on this machine and elsewhere."""

    machine_dollars_per_hour: float | None = Field(default=None, gt=0.0)
    """Price of the machine that the student answers on. None leaves prices out: nobody can guess
    it."""
    teacher_dollars_per_hour: float | None = Field(default=None, gt=0.0)
    """Price of the machine that the teacher needs. None takes the student's for a teacher that is a
    file of the run, and prices none that is served elsewhere: an API has its row in `apis`."""
    utilization: float = Field(default=0.2, gt=0.0, le=1.0)
    """Share of the time that the machine really writes. Few services are busy day and night, and an
    idle machine costs the same: at 0.2 a token costs five times what a full machine asks."""
    apis: tuple[ApiPrice, ...] = ()
    """Rows to compare with."""
