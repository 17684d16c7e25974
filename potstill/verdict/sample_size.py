"""The number of pairs that a comparison needs, and the power of a given number.

In: a plan and the expected win rate. Out: numbers of pairs and votes, power. Pairs are independent.

All by the normal approximation. With win rate W and a share of ties the variance of a pair's score
in {0, ½, 1} is W(1 - W) - ties/4.

Source: Chow, Shao & Wang 2008, "Sample Size Calculations in Clinical Research", eq. 3.1.4,
n = (z_alpha + z_power)² variance / (expected - threshold)².
"""

from __future__ import annotations

import math
from functools import lru_cache

from potstill.errors import ConfigError
from potstill.verdict.outcome import Plan


@lru_cache
def pairs_for_non_inferiority(plan: Plan, *, rate: float = 0.5, tie_share: float = 0.0) -> int:
    """Return how many pairs give a student of this win rate the plan's power to pass.

    Args:
        rate: True win rate; ½ is parity.
        tie_share: Expected share of ties.

    Raises:
        ConfigError: The rate is not above the threshold, or contradicts the share of ties.
    """
    distance = rate - plan.win_rate_threshold
    if distance <= 0:
        raise ConfigError(
            "no number of pairs lets this student pass",
            where="rate",
            expected=f"above {plan.win_rate_threshold}",
            found=rate,
        )
    return pairs_for(plan, score_variance(rate, tie_share), distance)


def pairs_for(plan: Plan, variance: float, distance: float) -> int:
    """Return how many values of this variance show a mean this far above the threshold."""
    return math.ceil((normal_quantile_sum(plan) / distance) ** 2 * variance)


def votes_for(num_needed: int, num_judged: float, explained: float) -> int:
    """Return how many of the judged pairs need a person's vote.

    The estimate by L votes and N judged pairs has ((1 - e)/L + e/N) times the variance of a vote,
    where the judge explains a share e of it; that of `num_needed` votes alone is enough.

    Source: Angelopoulos, Duchi & Zrnic 2023, "PPI++", eq. 8, with the best weight and N ≫ L.

    Args:
        num_needed: Pairs that are needed with a vote on each.
        num_judged: May be infinite.
    """
    if num_judged <= num_needed:
        return num_needed
    return math.ceil(num_needed * (1 - explained) / (1 - explained * num_needed / num_judged))


def power(plan: Plan, num_pairs: int, *, rate: float = 0.5) -> float:
    """Return the probability that a student of this win rate, without ties, passes.

    Raises:
        ConfigError: The rate is not between 0 and 1.
    """
    error = math.sqrt(score_variance(rate, 0.0) / num_pairs)
    return power_of(rate - plan.win_rate_threshold, error, plan)


def power_of(distance: float, standard_error: float, plan: Plan) -> float:
    """Return the probability that a mean this far above the threshold is shown to be above it."""
    from scipy.stats import norm

    if standard_error == 0:
        return 1.0
    return float(norm.cdf(distance / standard_error - norm.isf(plan.alpha)))


def score_variance(rate: float, tie_share: float) -> float:
    """Return the variance of a pair's score in {0, ½, 1}.

    Raises:
        ConfigError: The rate is not between 0 and 1, or contradicts the share of ties.
    """
    if not (0 < rate < 1 and 0 <= tie_share < 1 and tie_share / 2 <= min(rate, 1 - rate)):
        raise ConfigError(
            "win rate and share of ties contradict each other",
            expected="0 < rate < 1 and 0 <= ties / 2 <= rate <= 1 - ties / 2, not all ties",
            found=f"rate {rate}, ties {tie_share}",
        )
    return rate * (1 - rate) - tie_share / 4


def normal_quantile_sum(plan: Plan) -> float:
    """Return z of 1 - alpha plus z of the power: 2.49 for the default plan."""
    from scipy.stats import norm

    return float(norm.isf(plan.alpha) + norm.ppf(plan.power))
