"""Charts in percent of their width, so that the page fits any screen without a script.

In: a `Report`, estimates or files. Out: positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from compare.comparison import Report
from compare.verdict.figures import Estimate
from potstill.facts.comparison import ModelRow
from potstill.facts.gguf import GgufFile

BAR_PERCENT = 84.0
"""Most width of a bar with its whisker; the rest is for the number beside it."""
PADDING = 0.08
"""Space on either side of intervals, as a share of their range."""
STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
MOST_TICKS = 6
CHART_PIXELS = 240
"""Height of the chart of files, at any width."""
LEFT_PERCENT, RIGHT_PERCENT, EDGE_PIXELS = 28.0, 14.0, 24.0
"""Space around its points for ticks and names; a phone is 350 pixels wide."""
LOWEST_KL_NATS = 1e-8
"""Files with a lower KL are drawn here: a logarithmic scale has no zero."""


@dataclass(frozen=True)
class Bar:
    """One step of the loss budget."""

    row: ModelRow
    length: float
    low: float
    high: float


@dataclass(frozen=True)
class Point:
    """A file in the chart of quality against bytes.

    Attributes:
        x: In percent.
        y: In pixels from the top.
        step: The next point of the Pareto front; None if the file is not on it, or is the last.
    """

    file: GgufFile
    x: float
    y: float
    step: tuple[float, float] | None


@dataclass(frozen=True)
class QualityChart:
    """Mean KL, on a logarithmic scale, over size.

    Attributes:
        decades: Labels of the powers of ten, with their positions in pixels.
    """

    points: list[Point]
    decades: dict[str, float]
    height: int = CHART_PIXELS


@dataclass(frozen=True)
class Axis:
    """A scale that several intervals share."""

    lowest: float
    highest: float

    @classmethod
    def of(cls, estimates: Sequence[Estimate]) -> Axis:
        """Return the axis that shows all intervals, equality and the threshold."""
        lowest = min(min(one.lower, one.threshold) for one in estimates)
        highest = max(max(one.upper, one.equal) for one in estimates)
        room = PADDING * (highest - lowest)
        return cls(lowest - room, highest + room)

    def at(self, value: float) -> float:
        """Return a value's position, in percent."""
        return 100 * (value - self.lowest) / (self.highest - self.lowest)

    @property
    def ticks(self) -> list[float]:
        """About five round values within the range."""
        width = self.highest - self.lowest
        step = next((one for one in STEPS if width / one < MOST_TICKS), STEPS[-1])
        first, last = math.ceil(self.lowest / step), math.floor(self.highest / step)
        return [round(step * number, 2) for number in range(first, last + 1)]


def loss_budget(report: Report) -> list[Bar]:
    """Return a bar for each known KL, except the sampled teacher's, which is 0."""
    known = [
        (row, row.kl_nats, row.kl_standard_error)
        for row in report.rows
        if row.step != "sampled" and row.kl_nats is not None and row.kl_standard_error is not None
    ]
    widest = max((kl + error for _, kl, error in known), default=0.0) or 1.0
    scale = BAR_PERCENT / widest
    return [
        Bar(
            row=row,
            length=max(kl, 0.0) * scale,
            low=max(kl - error, 0.0) * scale,
            high=max(kl + error, 0.0) * scale,
        )
        for row, kl, error in known
    ]


def quality_chart(files: Sequence[GgufFile]) -> QualityChart | None:
    """Return the chart of at least two files; None for fewer."""
    if len(files) < 2:
        return None
    sizes = [file.bytes for file in files]
    levels = [_level(file) for file in files]
    lowest, highest = math.floor(min(levels)), math.ceil(max(levels))
    width = max(max(sizes) - min(sizes), 1)
    height = max(highest - lowest, 1)

    def x(file: GgufFile) -> float:
        room = 100 - LEFT_PERCENT - RIGHT_PERCENT
        return LEFT_PERCENT + room * (file.bytes - min(sizes)) / width

    def y(level: float) -> float:
        return EDGE_PIXELS + (CHART_PIXELS - 2 * EDGE_PIXELS) * (highest - level) / height

    def step(file: GgufFile) -> tuple[float, float] | None:
        larger = [
            other
            for other in files
            if file.on_pareto_front
            and other.on_pareto_front
            and other.role == file.role
            and other.bytes > file.bytes
        ]
        following = min(larger, key=lambda other: other.bytes, default=None)
        return None if following is None else (x(following), y(_level(following)))

    points = [Point(file, x(file), y(_level(file)), step(file)) for file in files]
    decades = {f"{10.0**power:g}": y(power) for power in range(lowest, highest + 1)}
    return QualityChart(points, decades)


def _level(file: GgufFile) -> float:
    return math.log10(max(file.kl_to_checkpoint_nats, LOWEST_KL_NATS))
