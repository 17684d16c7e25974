"""Figures drawn as lengths in percent of their width: a page needs no script to fit any screen.

In: a `Report` or estimates. Out: positions. Knows nothing of HTML.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from compare.report.report import ModelRow, Report
from compare.report.verdict import Estimate

BAR_PERCENT = 84.0
"""What the longest bar and its whisker may take, so that the figure beside them has room."""
PADDING = 0.08
"""Room on either side of intervals, as a share of what they span."""
STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
MOST_TICKS = 6


@dataclass(frozen=True)
class Bar:
    """One step of the loss budget."""

    row: ModelRow
    length: float
    low: float
    high: float


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
        """Return where a value lies, in percent."""
        return 100 * (value - self.lowest) / (self.highest - self.lowest)

    @property
    def ticks(self) -> list[float]:
        """Round values in reach, a handful."""
        width = self.highest - self.lowest
        step = next((one for one in STEPS if width / one < MOST_TICKS), STEPS[-1])
        first, last = math.ceil(self.lowest / step), math.floor(self.highest / step)
        return [round(step * number, 2) for number in range(first, last + 1)]


def loss_budget(report: Report) -> list[Bar]:
    """Return the bars of KL at each step where it is known, but of the sampled teacher: it is 0."""
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
