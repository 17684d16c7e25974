"""Facts of the stage `curve`."""

from __future__ import annotations

from typing import ClassVar

from potstill.facts.base import Facts, Record, StageName


class Interval(Record):
    """A figure with its 90% interval over resampled references."""

    value: float
    low: float
    high: float


class CurvePoint(Record):
    """What a share of the data reaches, or would reach."""

    share: float
    """Of the run's training conversations."""
    num_conversations: int
    figure: Interval
    """Mean of the task's first metric over the references."""


class CurveFacts(Facts):
    """The task's first metric against the amount of training data."""

    stage: ClassVar[StageName] = "curve"

    metric: str
    num_references: int
    points: tuple[CurvePoint, ...]
    """Measured, in ascending order; the last one is the run's student."""
    exponent: Interval
    """Of the power law by which the error falls."""
    projections: tuple[CurvePoint, ...]
    """For more data than there are, by that law."""
