"""The table of candidates: each one's metric, and how far the student is ahead of it.

In: answers to the same prompts. Out: `CandidateRow`s, with intervals over clusters of prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from compare.answers.answers import Answer, means_by_prompt
from compare.answers.questions import Question
from compare.verdict.intervals import mean_interval
from potstill.schema import Value
from potstill.task.answers import Item
from potstill.task.metrics.metric import Metric, safe_score

Kind = Literal["teacher", "student", "none"]


class Bounded(Value):
    """A mean with its one-sided bounds of confidence 1 - alpha."""

    value: float
    lower: float
    upper: float


class CandidateRow(Value):
    """One way to do the task."""

    key: str
    name: str
    kind: Kind
    """Whose model answers; "none" of what is no language model."""
    model: str | None
    """The file's or the served model's name."""
    is_compared: bool = False
    """Whether the verdict is about this row."""
    metric: Bounded
    """Mean over prompts."""
    student_ahead: Bounded | None = None
    """The student's metric less this one's on the same prompts; None for the student itself."""
    num_prompts: int
    num_examples: int | None = None
    """Known answers in its prompt, or that it learned from; None where that says nothing."""
    prompt_tokens: float | None = None
    """Mean, as its own tokenizer counts."""
    completion_tokens: float | None = None
    bytes: int | None = None
    """Of its file."""
    seconds: float | None = None
    """Of this machine for one answer, with as many at once as the comparison allows."""
    watt_hours: float | None = None
    """Energy of a thousand answers; None where it is not known."""
    is_energy_measured: bool = False
    """Whether it was read from counters; otherwise it is processor time times stated watts."""
    dollars: float | None = None
    """Price of a thousand answers; None without a price of the machine."""


class Scores:
    """Scores answers to the same prompts.

    Args:
        metric: The one that decides.
        cluster_by: As in `compare.verdict`.
        alpha: One-sided error rate of each bound.
    """

    def __init__(
        self,
        metric: Metric,
        questions: Sequence[Question],
        cluster_by: Literal["cluster", "source", "conversation"],
        alpha: float,
    ) -> None:
        self._metric, self._alpha = metric, alpha
        self._questions = {one.prompt_id: one for one in questions}
        self._clusters = {one.prompt_id: one.cluster(cluster_by) for one in questions}

    def of(self, answers: Sequence[Answer]) -> dict[str, float]:
        """Return the metric of a model's answers by prompt; several answers are averaged."""
        return means_by_prompt(answers, self._value)

    def _value(self, answer: Answer) -> float:
        question = self._questions[answer.prompt_id]
        item = Item(messages=question.messages, known=question.known)
        content = None if answer.is_refused else answer.content
        return safe_score(self._metric, content, item).value

    def mean(self, values: Mapping[str, float]) -> Bounded:
        """Return the mean metric with its bounds."""
        return self._bounded(values, (0.0, 1.0))

    def ahead(self, student: Mapping[str, float], other: Mapping[str, float]) -> Bounded | None:
        """Return the mean difference on the prompts that both answered."""
        common = student.keys() & other.keys()
        changes = {key: value - other[key] for key, value in student.items() if key in common}
        return self._bounded(changes, (-1.0, 1.0)) if changes else None

    def _bounded(self, values: Mapping[str, float], bounds: tuple[float, float]) -> Bounded:
        interval = mean_interval(
            list(values.values()),
            [self._clusters[prompt_id] for prompt_id in values],
            alpha=self._alpha,
            bounds=bounds,
        )
        return Bounded(value=interval.mean, lower=interval.lower, upper=interval.upper)
