"""The protocol of metrics."""

from __future__ import annotations

from typing import Protocol

from potstill.task.answers import Answer, Item, Score


class Metric(Protocol):
    """Scores one answer at a time; the same answer always gets the same score."""

    @property
    def name(self) -> str:
        """Its name in reports."""

    @property
    def needs_known(self) -> bool:
        """Whether only items with a known answer can be scored."""

    def score(self, answer: Answer, item: Item) -> Score:
        """Score an answer.

        Args:
            item: Its prompt; with a known answer if `needs_known`.
        """
        ...
