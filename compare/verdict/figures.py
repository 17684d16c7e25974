"""The figures of one judge: estimates, checks, controls, slices.

Frozen values, computed by the other modules of this folder.
"""

from __future__ import annotations

from typing import Literal

from compare.judges.protocol import Answerer
from potstill.schema import Value
from potstill.verdict.outcome import Outcome

ScaleName = Literal["win rate", "difference"]
EQUAL: dict[ScaleName, float] = {"win rate": 0.5, "difference": 0.0}
"""Value for two equal models."""
LARGEST_DIFFERENCE: dict[ScaleName, float] = {"win rate": 0.5, "difference": 1.0}
"""Largest distance of one pair's value from it."""
Basis = Literal["first", "followed", "corrected"]
"""What the bounds of a comparison are: those of the first one by its judge; those that hold at all
its comparisons together; or those of one of several, with its part of alpha."""
Relation = Literal["at most", "at least", "below"]
MOST_DIGITS = 7
"""Of a bound near its threshold: bounds are computed to seven."""


class Estimate(Value):
    """A mean over pairs of student and teacher, with one-sided bounds of confidence 1 - alpha.

    The win rate of the student, ties counted as one half, of a preference judge; the mean
    difference student - teacher of one that measures each answer.
    """

    scale: ScaleName
    value: float
    lower: float
    upper: float
    threshold: float
    """PASS needs the lower bound above it: the value for equal models less the margin."""
    standard_error: float
    """Cluster-robust."""
    num_pairs: int
    num_unread: int = 0
    """Pairs that the judge could not read: losses in the lower bound, wins in the upper one."""
    num_clusters: int
    tie_share: float
    student_mean: float | None = None
    """Mean of the student's measurements, of a judge that measures each answer."""
    teacher_mean: float | None = None

    @property
    def equal(self) -> float:
        """Value for two equal models."""
        return EQUAL[self.scale]


class Discordance(Value):
    """Prompts that only one of the models answered correctly, and McNemar's test of them."""

    only_student: int
    only_teacher: int
    p_exact: float
    """Two-sided p-value of "both are correct equally often", prompts taken as independent."""


class HumanCorrected(Value):
    """A judge's estimate corrected by people's votes or labels on some of its pairs (PPI++)."""

    rate: float
    """On the judge's scale: the win rate, or the mean difference."""
    lower: float
    upper: float
    num_human_votes: int
    """Pairs with a vote, or with labels of both answers."""
    num_judged: int
    standard_error: float | None = None
    """None in reports of earlier versions."""
    sensitivity: float | None = None
    """Share of people's preference that the judge's scores show on pairs with votes: the slope of
    one on the other. None where all votes are ties, or in reports of earlier versions."""
    sensitivity_error: float | None = None
    """Its standard error."""
    outcome: Outcome


class GradedSet(Value):
    """Pairs of which a known share is worse and the others are equal, as a judge sees them."""

    true_rate: float
    """Win rate of the set, by how it was made."""
    seen: float
    """Win rate by the judge."""
    lower: float
    upper: float
    """Bounds of confidence 1 - alpha each."""


class Sensitivity(Value):
    """How much of a known difference a judge sees: 1 all of it, 0 nothing."""

    value: float
    lower: float
    """One-sided, of confidence 1 - alpha/2."""
    num_pairs: int
    """Pairs of the assay whose worse answer is known, of graded controls where there are some."""
    sets: tuple[GradedSet, ...] = ()
    """None without graded controls."""


class Agreement(Value):
    """A judge's readings of answers that people labeled."""

    num_met: int
    """Answers that meet the criterion by people's labels."""
    num_met_seen: int
    """Those of them that meet it by the judge."""
    num_unmet: int
    num_unmet_seen: int


class CriterionRow(Value):
    """One criterion of a judge of criteria."""

    criterion: str
    shares: dict[Answerer, float]
    """Of each side's answers that meet it, by the judge alone."""
    agreement: dict[Answerer, Agreement]
    """Its errors may differ between both sides."""


class HealthCheck(Value):
    """One requirement on a judge."""

    name: str
    value: float | None
    """None when there was nothing to compute it from."""
    relation: Relation
    limit: float
    detail: str
    """What the value is."""

    @property
    def passed(self) -> bool | None:
        """Whether the value is within the limit; None when there is no value."""
        if self.value is None:
            return None
        if self.relation == "at least":
            return self.value >= self.limit
        return self.value < self.limit or (self.relation == "at most" and self.value == self.limit)


class Control(Value):
    """A judge's judgments on pairs whose better side is known."""

    name: str
    expected: str
    """A sound judge's result for the changed answer: "tie", "worse", "equal" or "not_better"."""
    num_pairs: int
    num_failed: int
    win_rate: float | None = None
    """Of the changed answer against the teacher's own; None when no pair was judged, as after a
    failed earlier control."""
    lower: float | None = None
    upper: float | None = None
    tie_share: float | None = None


class Slice(Value):
    """The estimate on prompts of one kind."""

    key: str
    """Such as "length"."""
    value: str
    """Such as "short"."""
    estimate: Estimate
    p_adjusted: float
    """p-value of "worse by the margin or more", adjusted for all slices by Holm's procedure."""
    outcome: Outcome
    """At the adjusted level."""


class Adjusted(Value):
    """A mean adjusted to prompts that were not compared, by what is known of them (CUPED)."""

    value: float
    standard_error: float
    variance_saved: float
    """Share of the variance that the adjustment removes; below 0 it adds some."""
    covariates: tuple[str, ...]
    num_prompts: int
    """Prompts with covariates, the compared ones among them."""

    def in_words(self) -> str:
        """Return the adjusted mean and its gain as a sentence."""
        saved = f"{abs(self.variance_saved):.0%} {'less' if self.variance_saved >= 0 else 'more'}"
        return (
            f"Adjusted by {' and '.join(self.covariates)} to all {self.num_prompts:,} prompts of "
            f"the run (CUPED): {self.value:.3f}, standard error {self.standard_error:.3f}, {saved} "
            "variance. It decides nothing: its coefficients are fitted to the same scores, for "
            "which the exact test is not made."
        )


def bound(value: float, threshold: float | None, digits: int = 3, sign: str = "") -> str:
    """Return a bound as text, with as many digits as show on which side of a threshold it is."""
    text = f"{value:{sign}.{digits}f}"
    if threshold is None or digits == MOST_DIGITS:
        return text
    is_shown = (float(text) > threshold) is (value > threshold) and float(text) != threshold
    return text if is_shown else bound(value, threshold, digits + 1, sign)


def bounds_in_words(
    lower: float,
    upper: float,
    alpha: float,
    basis: Basis = "first",
    threshold: float | None = None,
) -> str:
    """Return a pair of one-sided bounds as text, with their confidence.

    Args:
        threshold: What they are compared with; None: nothing.
    """
    bounds = f"{bound(lower, threshold)} to {bound(upper, threshold)}"
    if basis == "followed":
        return (
            f"{bounds} (each bound holds at all comparisons together with probability "
            f"{1 - alpha:g})"
        )
    return (
        f"{bounds} ({100 * (1 - 2 * alpha):g}% interval: two one-sided "
        f"{100 * (1 - alpha):g}% bounds)"
    )
