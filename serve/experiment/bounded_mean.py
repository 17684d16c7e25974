"""Means of values between 0 and 1, and their difference, with bounds that hold at every look.

In: values in the order of their arrival. Out: bounds that are right at all looks together with
probability 1 - alpha, for any number of values: nothing is asymptotic.

Source: Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables by betting",
JRSS-B 86, theorem 2: the empirical-Bernstein confidence sequence with predictable plug-in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from potstill.verdict.scores import checked_values

Floats = NDArray[np.float64]

LARGEST_WEIGHT = 0.5
"""Bound of the weights; the paper recommends ½ or ¾."""


@dataclass(frozen=True)
class Difference:
    """The first of two means less the second, with bounds."""

    difference: float
    """Of the values so far."""
    lower: float
    upper: float


def difference_of_means(first: ArrayLike, second: ArrayLike, alpha: float) -> Difference:
    """Return the difference of two independent groups' means; each has half of alpha.

    Raises:
        PotstillError: A group is empty, or a value is not between 0 and 1.
    """
    first_T, second_T = checked_values(first), checked_values(second)
    lower_first, upper_first = mean_bounds(first_T, alpha / 2)
    lower_second, upper_second = mean_bounds(second_T, alpha / 2)
    return Difference(
        float(first_T.mean() - second_T.mean()),
        float(lower_first[-1] - upper_second[-1]),
        float(upper_first[-1] - lower_second[-1]),
    )


def mean_bounds(values: Floats, alpha: float) -> tuple[Floats, Floats]:
    """Return the lower and upper bounds [..., T] of the mean after each value.

    Args:
        values: [..., T] in [0, 1].
    """
    counts_T = np.arange(1, values.shape[-1] + 1)
    sums = np.cumsum(values, axis=-1)
    means = (0.5 + sums) / (counts_T + 1)
    variances = (0.25 + np.cumsum((values - means) ** 2, axis=-1)) / (counts_T + 1)
    # A weight and a prediction depend on earlier values only.
    means_before = (0.5 + sums - values) / counts_T
    first = np.full((*values.shape[:-1], 1), 0.25)
    variances_before = np.concatenate([first, variances[..., :-1]], axis=-1)
    log_term = np.log(2 / alpha)
    weights = np.sqrt(2 * log_term / (variances_before * counts_T * np.log1p(counts_T)))
    weights = np.minimum(weights, LARGEST_WEIGHT)
    totals = np.cumsum(weights, axis=-1)
    centers = np.cumsum(weights * values, axis=-1) / totals
    spreads = (values - means_before) ** 2 * (-np.log1p(-weights) - weights)
    radii = (log_term + np.cumsum(spreads, axis=-1)) / totals
    # Bounds that hold at all times together allow the narrowest so far.
    lower = np.maximum.accumulate(np.maximum(centers - radii, 0.0), axis=-1)
    upper = np.minimum.accumulate(np.minimum(centers + radii, 1.0), axis=-1)
    return lower, upper
