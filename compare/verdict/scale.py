"""What a judge's estimate is of, and its test.

In: pairs that a judge has decided. Out: the mean with its bounds. Of a preference judge it is the
win rate with ties one half; of a judge that measures each answer, the mean difference. Both are
means of bounded values in clusters, tested against a threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from compare.judges.protocol import Judgment, Pair
from compare.verdict.figures import EQUAL, Estimate, ScaleName
from compare.verdict.intervals import MeanInterval, mean_interval
from potstill.verdict.outcome import Plan


@dataclass(frozen=True)
class Decided:
    """A pair on which the judge has decided, or that it was given and could not read."""

    pair: Pair
    judgment: Judgment
    cluster: str

    @property
    def is_unread(self) -> bool:
        """Whether the judge has no result for it."""
        return self.judgment.score is None

    @property
    def measurements(self) -> tuple[float, float]:
        """The student's and the teacher's, of a judge that measures; else 0."""
        return self.judgment.student_value or 0.0, self.judgment.teacher_value or 0.0


@dataclass(frozen=True)
class Scale:
    """What a judge's estimate is of, and its test."""

    name: ScaleName
    bounds: tuple[float, float]
    value_of: Callable[[Decided], float | None]
    """None of an unread pair."""
    plan: Plan

    @property
    def threshold(self) -> float:
        """PASS needs the lower bound above it."""
        return EQUAL[self.name] - self.plan.margin

    def at(self, score: float) -> float:
        """Return the value of a score, which is from 0 to 1 whatever the judge is."""
        low, high = self.bounds
        return low + score * (high - low)

    def interval(self, decided: Sequence[Decided]) -> MeanInterval:
        """Return the mean with its one-sided bounds."""
        values = [self.value_of(one) for one in decided]
        clusters = [one.cluster for one in decided]
        return mean_interval(values, clusters, alpha=self.plan.alpha, bounds=self.bounds)

    def estimate(self, interval: MeanInterval, decided: Sequence[Decided]) -> Estimate:
        """Return the interval as the report has it."""
        ties = sum(self.value_of(one) == EQUAL[self.name] for one in decided)
        means: dict[str, float] = {}
        if self.name == "difference":
            read = [one.measurements for one in decided if not one.is_unread]
            student, teacher = zip(*read, strict=True)
            means = {"student_mean": fmean(student), "teacher_mean": fmean(teacher)}
        return Estimate(
            scale=self.name,
            value=interval.mean,
            lower=interval.lower,
            upper=interval.upper,
            threshold=self.threshold,
            standard_error=interval.standard_error,
            num_pairs=interval.num_values,
            num_unread=interval.num_unread,
            num_clusters=interval.num_clusters,
            tie_share=ties / interval.num_values,
            **means,
        )


def scale_of(measures: bool, plan: Plan) -> Scale:
    """Return the scale of a judge that measures each answer, or of one that prefers."""
    if measures:
        return Scale("difference", (-1.0, 1.0), _difference, plan)
    return Scale("win rate", (0.0, 1.0), lambda one: one.judgment.score, plan)


def _difference(one: Decided) -> float | None:
    if one.is_unread:
        return None
    student, teacher = one.measurements
    return student - teacher
