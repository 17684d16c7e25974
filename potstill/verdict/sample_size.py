"""The number of pairs that a comparison needs, and the power of a given number.

In: a plan and the expected win rate. Out: numbers of pairs, power. Pairs are independent.

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
    variance = score_variance(rate, tie_share)
    return math.ceil((normal_quantile_sum(plan) / distance) ** 2 * variance)


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
