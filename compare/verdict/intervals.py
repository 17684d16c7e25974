"""Confidence intervals of a mean whose values come in clusters, such as conversations or templates.

In: bounded values, one a pair, and the cluster of each. Out: mean, standard error, one-sided
bounds and p-values (the test is in `reweighting`).

Shape legend: N values, G clusters.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from compare.verdict.reweighting import p_at_most
from potstill.errors import PotstillError
from potstill.verdict.scores import Floats, checked_values, cluster_sums

BOUND_TOLERANCE = 1e-7


@dataclass(frozen=True)
class _Clusters:
    """Sums and sizes of clusters, and the smallest possible value."""

    sums_G: Floats
    sizes_G: Floats
    least: float

    def p_at_most(self, threshold: float) -> float:
        return p_at_most(threshold, self.sums_G, self.sizes_G, self.least)

    def lower(self, alpha: float, most: float) -> float:
        """Return the threshold whose p-value is alpha.

        Args:
            most: Largest possible value.
        """
        from scipy.optimize import brentq

        def excess(threshold: float) -> float:
            return self.p_at_most(threshold) - alpha

        if excess(self.least) >= 0:  # All values are the smallest possible one.
            return self.least
        return float(brentq(excess, self.least, most, xtol=BOUND_TOLERANCE))


@dataclass(frozen=True)
class MeanInterval:
    """A mean with its one-sided bounds, each of confidence 1 - alpha."""

    mean: float
    """Of the read values."""
    standard_error: float
    """Cluster-robust."""
    num_values: int
    """Known ones."""
    num_unread: int
    num_clusters: int
    bounds: tuple[float, float]
    """Smallest and largest possible value."""
    alpha: float
    _lowest: _Clusters = field(repr=False, compare=False)
    """With the smallest value in place of unknown ones."""
    _highest: _Clusters = field(repr=False, compare=False)
    """The negative of all values, with the negative of the largest in place of unknown ones."""

    @cached_property
    def lower(self) -> float:
        """Lower bound."""
        return self._lowest.lower(self.alpha, self.bounds[1])

    @cached_property
    def upper(self) -> float:
        """Upper bound."""
        return -self._highest.lower(self.alpha, -self.bounds[0])

    def p_at_most(self, threshold: float) -> float:
        """Return the p-value of "the mean is at most the threshold": small when it is above."""
        return self._lowest.p_at_most(threshold)

    def p_at_least(self, threshold: float) -> float:
        """Return the p-value of "the mean is at least the threshold": small when it is below."""
        return self._highest.p_at_most(-threshold)


def mean_interval(
    values: Sequence[float | None] | Floats,
    clusters: Sequence[Hashable] | None = None,
    *,
    alpha: float,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> MeanInterval:
    """Estimate the mean of all values, taking clusters and not values as independent.

    The standard error is CR2: Σ_g w_g S_g² / N² with S_g the sum of a cluster's residuals, N_g its
    number of values and w_g = 1/(1 - N_g/N), unbiased for values without correlation. One cluster
    has the largest that the bounds allow.

    Source: Bell & McCaffrey 2002, "Bias reduction in standard errors for linear regression with
    multi-stage samples", eq. 6; `reweighting` for the bounds.

    Args:
        values: None is a value that exists and is not known: the lower bound takes the smallest
            possible value for it, the upper bound the largest.
        clusters: The cluster of each value; None where each is its own.
        bounds: Smallest and largest possible value.

    Raises:
        PotstillError: No known values, values out of bounds, or not one cluster per value.
    """
    low, high = bounds
    unknown_N = np.array([value is None for value in values], dtype=bool)
    num_unread = int(unknown_N.sum())
    if num_unread and num_unread == len(values):
        raise PotstillError(
            "a mean needs a known value", expected="at least one", found=f"{num_unread} unknown"
        )
    values_N = checked_values([low if value is None else value for value in values], bounds)
    lowest = _Clusters(*cluster_sums(values_N, clusters), low)
    highest = _Clusters(*cluster_sums(-np.where(unknown_N, high, values_N), clusters), -high)
    known_N = ~unknown_N
    mean = float(values_N[known_N].mean())
    return MeanInterval(
        mean=mean,
        standard_error=robust_error(np.where(unknown_N, mean, values_N), clusters, mean, bounds),
        num_values=int(known_N.sum()),
        num_unread=num_unread,
        num_clusters=len(lowest.sums_G),
        bounds=bounds,
        alpha=alpha,
        _lowest=lowest,
        _highest=highest,
    )


def robust_error(
    values_N: Floats, clusters: Sequence[Hashable] | None, mean: float, bounds: tuple[float, float]
) -> float:
    """Return the standard error of a mean, as in `mean_interval`."""
    sums_G, sizes_G = cluster_sums(values_N - mean, clusters)
    if len(sums_G) == 1:
        return (bounds[1] - bounds[0]) / 2
    total = sizes_G.sum()
    weights_G = 1 / (1 - sizes_G / total)
    return math.sqrt((weights_G * sums_G**2).sum()) / float(total)
