"""Evidence that is valid after every value: the wealth of bets against a bounded mean.

In: values in [0, 1] in the order of their arrival. Out: the logarithm of a test martingale for each
direction, "the mean is at most the threshold" and "at least".

A bet may depend on earlier values only. Under the hypothesis the expected gain is at most 0, so
that wealth ever reaches 1/alpha with a probability of at most alpha, however often it is inspected
(Ville's inequality). This holds for any number of values; nothing is asymptotic.

Source: Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables by betting",
JRSS-B 86, section 4 (the capital process) and appendix B.3 (the approximate GRAPA bet), with the
running mean started at the mean that the experiment is planned for (parity; as far beyond the
threshold for the other direction), with the weight of the planned number of pairs. Any such start
is valid; this one decides soonest at parity.

Shape legend: ... independent experiments, T values in order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from potstill.verdict.outcome import Plan
from potstill.verdict.sample_size import pairs_for_non_inferiority

Floats = NDArray[np.float64]

LARGEST_STAKE = 0.75
"""Largest share of the wealth that one value can take; the paper recommends ½ to ¾."""
VARIANCE_PRIOR_VALUES = 10
"""The running variance starts as a coin's with the weight of this many values: a few ties in a row
must not stake everything."""


@dataclass(frozen=True)
class Moments:
    """Number, sum and sum of squares of the values so far."""

    count: int = 0
    total: float = 0.0
    total_of_squares: float = 0.0

    def after(self, values_T: Floats) -> Moments:
        """Return the moments with these values added."""
        return Moments(
            self.count + len(values_T),
            self.total + float(values_T.sum()),
            self.total_of_squares + float((values_T**2).sum()),
        )

    @property
    def variance(self) -> float:
        """Running variance, shrunk towards a coin's."""
        counts, totals = np.array(float(self.count)), np.array(self.total)
        return float(_variance(counts, totals, np.array(self.total_of_squares)))


def log_wealth(
    values: Floats, plan: Plan, before: Moments = Moments(), threshold: float | None = None
) -> tuple[Floats, Floats]:
    """Return the logarithms of both wealths after each value, relative to those before the first.

    Args:
        values: [..., T] in [0, 1].
        before: Moments of the earlier values.
        threshold: The mean that is bet against, above 0 and below 1; None takes ½ - margin.

    Returns:
        [..., T] against "the mean is at most the threshold" (high: non-inferior), and [..., T]
        against "the mean is at least the threshold" (high: inferior).
    """
    tested = plan.win_rate_threshold if threshold is None else threshold
    counts, totals, squares = _moments_before(values, before)
    logs = []
    for sign in (1, -1):
        bets = _bets(counts, totals, _variance(counts, totals, squares), plan, tested, sign)
        logs.append(np.cumsum(np.log1p(bets * sign * (values - tested)), axis=-1))
    return logs[0], logs[1]


def expected_wealth(
    before: Moments, plan: Plan, num_values: int, threshold: float, *, above: bool
) -> tuple[Floats, Floats]:
    """Return mean and variance [T] of the log wealth of values to come, each time after one more.

    To second order in the bets, if the values have the mean and the variance of those before.

    Args:
        above: Whether the bets are against "the mean is at most the threshold".
    """
    counts = before.count + np.arange(num_values, dtype=np.float64)
    mean, square = before.total / before.count, before.total_of_squares / before.count
    variances = _variance(counts, mean * counts, square * counts)
    sign = 1 if above else -1
    bets = _bets(counts, mean * counts, variances, plan, threshold, sign)
    lead = sign * (mean - threshold)
    spread = max(0.0, square - mean**2)
    growth = bets * lead - bets**2 * (spread + lead**2) / 2
    return np.cumsum(growth), np.cumsum(bets**2 * spread)


def _bets(
    counts: Floats, totals: Floats, variances: Floats, plan: Plan, threshold: float, sign: int
) -> Floats:
    """Return the bet on each value that the mean is above (sign 1) or below the threshold (-1)."""
    prior_values = pairs_for_non_inferiority(plan)
    means = (prior_values * (threshold + sign * plan.margin) + totals) / (prior_values + counts)
    distances = np.maximum(sign * (means - threshold), 0)
    largest = threshold if sign > 0 else 1 - threshold
    bets: Floats = np.minimum(distances / (variances + distances**2), LARGEST_STAKE / largest)
    return bets


def running_variances(values: Floats, before: Moments = Moments()) -> Floats:
    """Return the variance of the values before each value, shrunk towards a coin's."""
    return _variance(*_moments_before(values, before))


def _moments_before(values: Floats, before: Moments) -> tuple[Floats, Floats, Floats]:
    """Return the number, sum and sum of squares of the values before each value."""
    counts = before.count + np.arange(values.shape[-1], dtype=np.float64)
    totals = before.total + np.cumsum(values, axis=-1) - values
    squares = before.total_of_squares + np.cumsum(values**2, axis=-1) - values**2
    return counts, totals, squares


def _variance(counts: Floats, totals: Floats, squares: Floats) -> Floats:
    """Return the running variance with `VARIANCE_PRIOR_VALUES` values of a coin's, ¼."""
    spread = squares - totals**2 / np.maximum(counts, 1)
    variances: Floats = (VARIANCE_PRIOR_VALUES / 4 + spread) / (VARIANCE_PRIOR_VALUES + counts)
    return variances
