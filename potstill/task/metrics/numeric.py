"""The last number of the answer is that of the known answer."""

from __future__ import annotations

import math
import re

from potstill.task.answers import Answer, Item, Score
from potstill.task.metrics.config import NumericConfig

NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|[-+]?\.\d+")
"""With commas between thousands, decimals and an exponent."""


class Numeric:
    """Compares the last numbers of two texts."""

    needs_known = True

    def __init__(self, config: NumericConfig) -> None:
        self.name = config.name or config.kind
        self._tolerance = config.relative_tolerance

    def score(self, answer: Answer, item: Item) -> Score:
        """Return 1 for an equal number, else 0."""
        known = last_number(item.known.text) if item.known else None
        found = last_number(answer.text)
        if known is None:
            return Score(value=0.0, problem="no number in the known answer")
        if found is None:
            return Score(value=0.0, expected=f"{known:g}", problem="no number in the answer")
        equal = math.isclose(found, known, rel_tol=self._tolerance)
        return Score(value=float(equal), found=f"{found:g}", expected=f"{known:g}")

    def key(self, answer: Answer) -> str | None:
        """Return the last number with six significant digits."""
        found = last_number(answer.text)
        return None if found is None else f"{found:g}"


def last_number(text: str) -> float | None:
    """Return the last number in a text, None if there is none or it is too large for a float."""
    numbers = NUMBER.findall(text)
    value = float(numbers[-1].replace(",", "")) if numbers else math.nan
    return value if math.isfinite(value) else None
