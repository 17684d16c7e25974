"""Bar charts of HTML pages: `charts.html.j2` draws them.

In: counts by value, or values by label. Out: bars with their lengths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NUM_CLASSES = 8
"""Bars of a histogram."""


@dataclass(frozen=True)
class Bar:
    """One bar; its length is in percent of the longest."""

    label: str
    text: str
    length: float


@dataclass(frozen=True)
class Chart:
    """A chart of horizontal bars."""

    title: str
    caption: str
    bars: tuple[Bar, ...]


def bar_chart(
    title: str, caption: str, labels: Sequence[str], values: Sequence[float], form: str = "{:,.0f}"
) -> Chart:
    """Return a chart with one bar per label.

    Args:
        form: Format of a value.
    """
    longest = max(values, default=0.0) or 1.0
    bars = tuple(
        Bar(label, form.format(value), 100.0 * value / longest)
        for label, value in zip(labels, values, strict=True)
    )
    return Chart(title, caption, bars)


def histogram(title: str, caption: str, counts: Mapping[int, int], unit: float = 1.0) -> Chart:
    """Return a chart of counts by value, in at most NUM_CLASSES classes of equal width.

    Args:
        unit: What a value of 1 stands for.
    """
    if not counts:
        return Chart(title, caption, ())
    low, high = min(counts), max(counts)
    width = -(-(high - low + 1) // NUM_CLASSES)
    labels, sums = [], []
    for start in range(low, high + 1, width):
        end = start + width
        sums.append(float(sum(count for value, count in counts.items() if start <= value < end)))
        if unit != 1.0:
            labels.append(f"{start * unit:g}-{end * unit:g}")
        else:
            labels.append(str(start) if width == 1 else f"{start}-{min(end - 1, high)}")
    return bar_chart(title, caption, labels, sums)
