"""The non-inferiority test on a sample of fixed size.

In: the interval of a mean (a win rate with ties ½, or student - teacher in a metric) and the
threshold: the value for equal models less the margin. Out: the outcome, and how many values a
decision still needs. The bounds hold for one look; a growing sample needs
`potstill.verdict.anytime`.
"""

from __future__ import annotations

import math

from compare.verdict.intervals import MeanInterval
from potstill.verdict.outcome import Outcome, Plan
from potstill.verdict.sample_size import normal_quantile_sum

MOST_FURTHER_VALUES = 1_000_000
"""Above it, no sample that a user can collect would decide."""


def outcome_of_bounds(lower: float, upper: float, threshold: float) -> Outcome:
    """Return PASS for bounds above the threshold, FAIL for bounds below it."""
    if lower > threshold:
        return Outcome.PASS
    return Outcome.FAIL if upper < threshold else Outcome.INCONCLUSIVE


def further_values(interval: MeanInterval, threshold: float, plan: Plan) -> int | None:
    """Return how many more values a decision needs if mean and variance stay the same.

    With that many, the outcome is PASS (above the threshold) or FAIL (below) with the plan's power:
    n = (z_alpha + z_power)² · variance of a value / distance², and at least what the rule of three
    requires. New values are assumed to come in clusters like those seen.

    Source: Chow, Shao & Wang 2008, "Sample Size Calculations in Clinical Research", eq. 3.1.4, with
    the observed variance (design effect included) for the assumed one.

    Returns:
        0 where the outcome is decided; None where more than a million values would be needed.
    """
    if outcome_of_bounds(interval.lower, interval.upper, threshold) is not Outcome.INCONCLUSIVE:
        return 0
    distance = interval.mean - threshold
    if distance == 0:
        return None
    variance = interval.standard_error**2 * interval.num_values
    by_spread = normal_quantile_sum(plan) ** 2 * variance / distance**2
    worst = interval.bounds[0] if distance > 0 else interval.bounds[1]
    unseen = (threshold - worst) / (interval.mean - worst)
    values_per_cluster = interval.num_values / interval.num_clusters
    by_rule_of_three = math.log(plan.alpha) / math.log(unseen) * values_per_cluster
    needed = max(by_spread, by_rule_of_three) - interval.num_values
    return max(1, math.ceil(needed)) if needed <= MOST_FURTHER_VALUES else None
