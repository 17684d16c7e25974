"""Is the student no worse than the teacher by more than the margin, on a sample of fixed size?

In: one score a pair of answers (1 the student's is better, ½ a tie, 0 the teacher's is), or a
metric of both on the same prompts; the cluster of each. Out: win rate or mean difference with
one-sided bounds, the outcome, and how many pairs a decision still needs. Knows nothing of judges.

A sample that is looked at while it grows needs `anytime` instead: these bounds hold for one look.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from potstill.errors import ConfigError, PotstillError
from potstill.verdict.intervals import Method, checked_values, mean_interval
from potstill.verdict.outcome import Outcome, Plan
from potstill.verdict.sample_size import normal_quantile_sum

MOST_FURTHER_PAIRS = 1_000_000
"""Above it, the student is on the threshold for all that a user can do about it."""


@dataclass(frozen=True)
class WinRate:
    """How often the student's answer is preferred, ties counted as one half."""

    rate: float
    standard_error: float
    """Cluster-robust."""
    lower: float
    """One-sided, of confidence 1 - alpha, as is `upper`."""
    upper: float
    num_pairs: int
    num_clusters: int
    tie_share: float
    """Share of pairs with a score of exactly one half."""
    method: Method
    alpha: float


@dataclass(frozen=True)
class PairedDifference:
    """Mean of student less teacher in a metric that both have on the same prompts."""

    difference: float
    standard_error: float
    """Cluster-robust."""
    lower: float
    """One-sided, of confidence 1 - alpha, as is `upper`."""
    upper: float
    student_mean: float
    teacher_mean: float
    num_pairs: int
    num_clusters: int
    method: Method
    alpha: float


def win_rate(
    scores: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    alpha: float,
    method: Method = "t",
) -> WinRate:
    """Estimate the student's win rate (`intervals.mean_interval` says how).

    Args:
        scores: The student's score in each pair, 0 to 1; a pair judged in both orders has the mean.
        clusters: Conversation, user or template of each pair; None where pairs are independent.

    Raises:
        PotstillError: No scores, a score out of bounds, or not one cluster for each.
    """
    interval = mean_interval(scores, clusters, alpha=alpha, method=method)
    return WinRate(
        rate=interval.mean,
        standard_error=interval.standard_error,
        lower=interval.lower,
        upper=interval.upper,
        num_pairs=interval.num_values,
        num_clusters=interval.num_clusters,
        tie_share=float(np.mean(np.asarray(scores) == 0.5)),
        method=method,
        alpha=alpha,
    )


def paired_difference(
    student: ArrayLike,
    teacher: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    alpha: float,
    method: Method = "t",
    bounds: tuple[float, float] = (0.0, 1.0),
) -> PairedDifference:
    """Estimate how much higher the student's mean is in a metric (accuracy, ROUGE-L, chrF).

    Args:
        bounds: Least and largest value of the metric; chrF in percent has (0, 100).

    Raises:
        PotstillError: No values, unpaired values, a value out of bounds, or not a cluster for each.
    """
    student_N, teacher_N = checked_values(student, bounds), checked_values(teacher, bounds)
    if len(student_N) != len(teacher_N):
        raise PotstillError(
            "Student and teacher need values for the same prompts.",
            expected=f"{len(teacher_N)} of the student",
            found=len(student_N),
        )
    width = bounds[1] - bounds[0]
    interval = mean_interval(
        student_N - teacher_N, clusters, alpha=alpha, method=method, bounds=(-width, width)
    )
    return PairedDifference(
        difference=interval.mean,
        standard_error=interval.standard_error,
        lower=interval.lower,
        upper=interval.upper,
        student_mean=float(student_N.mean()),
        teacher_mean=float(teacher_N.mean()),
        num_pairs=interval.num_values,
        num_clusters=interval.num_clusters,
        method=method,
        alpha=alpha,
    )


def judge_verdict(win_rate: WinRate, plan: Plan) -> Outcome:
    """Return PASS where the lower bound is above ½ - margin, FAIL where the upper is below.

    Raises:
        ConfigError: The bounds are of another alpha than the plan's.
    """
    _check_alpha(win_rate.alpha, plan)
    return outcome_of_bounds(win_rate.lower, win_rate.upper, plan.win_rate_threshold)


def difference_verdict(difference: PairedDifference, plan: Plan) -> Outcome:
    """Return PASS where the lower bound is above -margin, FAIL where the upper is below.

    Raises:
        ConfigError: The bounds are of another alpha than the plan's.
    """
    _check_alpha(difference.alpha, plan)
    return outcome_of_bounds(difference.lower, difference.upper, -plan.margin)


def outcome_of_bounds(lower: float, upper: float, threshold: float) -> Outcome:
    """Return the outcome of bounds that lie above, below or around the threshold."""
    if lower > threshold:
        return Outcome.PASS
    return Outcome.FAIL if upper < threshold else Outcome.INCONCLUSIVE


def further_pairs(win_rate: WinRate, plan: Plan) -> int | None:
    """Return how many more pairs a decision needs, should rate and variance stay what they are.

    With so many more, the outcome is PASS (above the threshold) or FAIL (below) with the plan's
    power: n = (z_alpha + z_power)² · variance of a pair / distance², and no fewer than the rule of
    three asks for. New pairs are taken to come in clusters like those seen.

    Source: Chow, Shao & Wang 2008, "Sample Size Calculations in Clinical Research", eq. 3.1.4, with
    the variance that was observed (design effect included) for the assumed one.

    Returns:
        0 where the outcome is decided; None where the rate is so near the threshold that more than
        a million pairs would be needed.
    """
    if judge_verdict(win_rate, plan) is not Outcome.INCONCLUSIVE:
        return 0
    threshold = plan.win_rate_threshold
    distance = win_rate.rate - threshold
    if distance == 0:
        return None
    pair_variance = win_rate.standard_error**2 * win_rate.num_pairs
    by_spread = normal_quantile_sum(plan) ** 2 * pair_variance / distance**2
    unseen = threshold / win_rate.rate if distance > 0 else (1 - threshold) / (1 - win_rate.rate)
    pairs_per_cluster = win_rate.num_pairs / win_rate.num_clusters
    by_rule_of_three = math.log(plan.alpha) / math.log(unseen) * pairs_per_cluster
    needed = max(by_spread, by_rule_of_three) - win_rate.num_pairs
    return max(1, math.ceil(needed)) if needed <= MOST_FURTHER_PAIRS else None


def _check_alpha(alpha: float, plan: Plan) -> None:
    if alpha != plan.alpha:
        raise ConfigError(
            "The bounds are of another error rate than the plan.",
            where="alpha",
            expected=plan.alpha,
            found=alpha,
        )
