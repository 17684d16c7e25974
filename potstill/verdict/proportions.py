"""Rates of two arms that were not paired: thumbs up, tasks solved, by different users.

In: counts of both arms. Out: the difference with its bounds, the outcome at the plan's margin and
a p-value. Knows nothing of time: these hold for one look at the data.
"""

from __future__ import annotations

from dataclasses import dataclass

from potstill.errors import PotstillError
from potstill.verdict.non_inferiority import outcome_of_bounds
from potstill.verdict.outcome import Outcome, Plan


@dataclass(frozen=True)
class RateDifference:
    """Student's rate less the teacher's, of something good."""

    difference: float
    lower: float
    """One-sided, of confidence 1 - alpha, as is `upper`."""
    upper: float
    p_inferior: float
    """P-value of "the student is worse by the margin or more" (Farrington and Manning's score)."""
    outcome: Outcome
    """By the bounds."""


def rate_difference(
    student_successes: int,
    student_total: int,
    teacher_successes: int,
    teacher_total: int,
    plan: Plan,
) -> RateDifference:
    """Compare two independent rates.

    Bounds are Newcombe's: those of Wilson's interval for each rate, combined. The p-value is
    Farrington and Manning's, with the variance under the hypothesis; it agrees with the bounds but
    for cases within a hair's breadth of alpha.

    Source: Newcombe 1998, Statistics in Medicine 17:873, method 10; Farrington & Manning 1990,
    Statistics in Medicine 9:1447; both through statsmodels.stats.proportion.

    Raises:
        PotstillError: An arm without answers, or more successes than answers.
    """
    from statsmodels.stats.proportion import confint_proportions_2indep, test_proportions_2indep

    for arm, successes, total in (
        ("student", student_successes, student_total),
        ("teacher", teacher_successes, teacher_total),
    ):
        if not 0 <= successes <= total or total == 0:
            raise PotstillError(
                "These counts are no rate.",
                where=arm,
                expected="0 <= successes <= answers, at least one answer",
                found=f"{successes} of {total}",
            )
    counts = (student_successes, student_total, teacher_successes, teacher_total)
    lower, upper = confint_proportions_2indep(
        *counts, method="newcomb", compare="diff", alpha=2 * plan.alpha
    )
    score = test_proportions_2indep(
        *counts,
        value=-plan.margin,
        method="score",
        compare="diff",
        alternative="larger",
        correction=False,
    )
    return RateDifference(
        difference=student_successes / student_total - teacher_successes / teacher_total,
        lower=float(lower),
        upper=float(upper),
        p_inferior=float(score.pvalue),
        outcome=outcome_of_bounds(float(lower), float(upper), -plan.margin),
    )
