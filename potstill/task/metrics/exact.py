"""The answer's text is the known one."""

from __future__ import annotations

from potstill.task.answers import Answer, Item, Score, folded
from potstill.task.metrics.config import ExactConfig


class Exact:
    """Compares whole texts."""

    needs_known = True

    def __init__(self, config: ExactConfig) -> None:
        self.name = config.name or config.kind
        self._ignore_case = config.ignore_case

    def score(self, answer: Answer, item: Item) -> Score:
        """Return 1 for the known text, else 0."""
        known = item.known.text if item.known else ""
        return Score(value=float(same_text(answer.text, known, ignore_case=self._ignore_case)))

    def key(self, answer: Answer) -> str | None:
        """Return the text as it is compared; None for an empty one."""
        return (folded(answer.text) if self._ignore_case else answer.text.strip()) or None


def same_text(one: str, other: str, *, ignore_case: bool) -> bool:
    """Return whether two texts are equal; optionally except for case and surplus white space."""
    if ignore_case:
        return folded(one) == folded(other)
    return one.strip() == other.strip()
