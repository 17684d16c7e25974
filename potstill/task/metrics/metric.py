"""The protocol of metrics."""

from __future__ import annotations

from typing import Protocol

from potstill.task.answers import Answer, Item, Score

RAISED = "the metric raised"
"""Begins the problem of a score whose metric raised."""


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

    def key(self, answer: Answer) -> str | None:
        """Return what the metric reads in an answer; None when it can read nothing.

        Answers that say the same have the same key, so that they can be counted without a known
        answer.
        """
        ...


def safe_key(metric: Metric, answer: Answer) -> str | None:
    """Return what a metric reads in an answer; None when it raises."""
    try:
        return metric.key(answer)
    except Exception:  # As for a score.
        return None


def safe_score(metric: Metric, answer: Answer | None, item: Item) -> Score:
    """Return a metric's score; 0 with the reason when it raises, or where there is no answer."""
    if answer is None:
        return Score(value=0.0, problem="no answer")
    try:
        return metric.score(answer, item)
    except Exception as error:  # Whatever a metric raises on an answer is the answer's failure.
        return Score(value=0.0, problem=f"{RAISED} {type(error).__name__}: {error}"[:200])
