"""Confidence intervals of a mean whose values come in clusters, such as conversations or templates.

In: bounded values, one a pair, and the cluster of each. Out: mean, standard error and one-sided
bounds, by Student's t with a cluster-robust variance or by the bootstrap over clusters.

Shape legend: N values, G clusters.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from potstill.verdict.scores import Floats, checked_values, cluster_sums

Method = Literal["t", "bca"]

NUM_RESAMPLES = 9999
"""Bootstrap samples: the bounds' own noise is then about 2 % of the interval's width."""
BOOTSTRAP_SEED = 0
"""The same data give the same bounds."""
_BATCH_ELEMENTS = 2_000_000
"""Resampled values held at a time, 16 MB of each array."""
_NO_SPREAD = 1e-12


@dataclass(frozen=True)
class MeanInterval:
    """A mean with its one-sided bounds, each of confidence 1 - alpha."""

    mean: float
    standard_error: float
    """Cluster-robust."""
    lower: float
    upper: float
    degrees_of_freedom: float
    num_values: int
    num_clusters: int
    bounds: tuple[float, float]
    """Smallest and largest possible value."""

    def p_at_most(self, threshold: float) -> float:
        """Return the p-value of "the mean is at most the threshold": small when it is above."""
        return self._p_value(self.mean, threshold, self.bounds[0])

    def p_at_least(self, threshold: float) -> float:
        """Return the p-value of "the mean is at least the threshold": small when it is below."""
        return self._p_value(-self.mean, -threshold, -self.bounds[1])

    def _p_value(self, mean: float, threshold: float, least: float) -> float:
        from scipy.stats import t

        if self.standard_error > _NO_SPREAD and self.num_clusters > 1:
            return float(t.sf((mean - threshold) / self.standard_error, self.degrees_of_freedom))
        if mean <= threshold:
            return 1.0
        return float(((threshold - least) / (mean - least)) ** self.num_clusters)


def mean_interval(
    values: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    alpha: float,
    method: Method = "t",
    bounds: tuple[float, float] = (0.0, 1.0),
    num_resamples: int = NUM_RESAMPLES,
) -> MeanInterval:
    """Estimate the mean of all values, taking clusters and not values as independent.

    "t": variance CR2, Σ_g w_g S_g² / N² with S_g the sum of a cluster's residuals, N_g its number
    of values and w_g = 1/(1 - N_g/N), which is unbiased for values without correlation, and
    Satterthwaite's degrees of freedom, G - 1 for clusters of one size. "bca": bias-corrected and
    accelerated bootstrap over clusters; narrower with few clusters, and then covers less.

    For values without any spread, the bound is that of the rule of three: the mean if the largest
    share that can have stayed unseen, 1 - alpha^(1/G), had the worst possible value. One cluster
    has the largest standard error that the bounds allow.

    Source: Bell & McCaffrey 2002, "Bias reduction in standard errors for linear regression with
    multi-stage samples", eqs. 6 and 15; as CR2 in Pustejovsky & Tipton 2018, eqs. 5 and 11; Efron
    1987 for BCa, through scipy.stats.bootstrap; Hanley & Lippman-Hand 1983 for the rule of three.

    Args:
        clusters: The cluster of each value; None where each is its own.
        bounds: Smallest and largest possible value.

    Raises:
        PotstillError: No values, values out of bounds, or not one cluster per value.
    """
    values_N = checked_values(values, bounds)
    sums_G, sizes_G = cluster_sums(values_N, clusters)
    mean, num_clusters = float(values_N.mean()), len(sums_G)
    standard_error, degrees = _robust_error(sums_G, sizes_G, mean, bounds)
    if num_clusters == 1 or standard_error <= _NO_SPREAD:
        lower, upper = _without_spread(mean, num_clusters, alpha, bounds)
    elif method == "t":
        lower, upper = _student_bounds(mean, standard_error, degrees, alpha)
    else:
        lower, upper = _bca_bounds(sums_G, sizes_G, alpha, num_resamples)
    return MeanInterval(
        mean=mean,
        standard_error=standard_error,
        lower=max(lower, bounds[0]),
        upper=min(upper, bounds[1]),
        degrees_of_freedom=degrees,
        num_values=len(values_N),
        num_clusters=num_clusters,
        bounds=bounds,
    )


def _robust_error(
    sums_G: Floats, sizes_G: Floats, mean: float, bounds: tuple[float, float]
) -> tuple[float, float]:
    """Return the standard error (CR2) and Satterthwaite's degrees of freedom."""
    if len(sums_G) == 1:
        return (bounds[1] - bounds[0]) / 2, 0.0
    total = sizes_G.sum()
    weights_G = 1 / (1 - sizes_G / total)
    variance = float((weights_G * (sums_G - sizes_G * mean) ** 2).sum()) / total**2
    # tr(B)²/tr(B²) for B the covariance of the weighted sums of residuals, were values independent.
    leverage_G = weights_G * sizes_G**2
    off_diagonal = (leverage_G.sum() ** 2 - (leverage_G**2).sum()) / total**2
    degrees = total**2 / ((sizes_G**2).sum() + off_diagonal)
    return variance**0.5, float(degrees)


def _student_bounds(
    mean: float, standard_error: float, degrees: float, alpha: float
) -> tuple[float, float]:
    from scipy.stats import t

    radius = float(t.isf(alpha, degrees)) * standard_error
    return mean - radius, mean + radius


def _bca_bounds(
    sums_G: Floats, sizes_G: Floats, alpha: float, num_resamples: int
) -> tuple[float, float]:
    from scipy.stats import bootstrap

    def ratio(sums: Floats, sizes: Floats, axis: int) -> Floats:
        means: Floats = sums.sum(axis=axis) / sizes.sum(axis=axis)
        return means

    interval = bootstrap(
        (sums_G, sizes_G),
        ratio,
        paired=True,
        vectorized=True,
        n_resamples=num_resamples,
        batch=max(1, _BATCH_ELEMENTS // len(sums_G)),
        confidence_level=1 - 2 * alpha,
        method="BCa",
        rng=np.random.default_rng(BOOTSTRAP_SEED),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def _without_spread(
    mean: float, num_clusters: int, alpha: float, bounds: tuple[float, float]
) -> tuple[float, float]:
    seen = alpha ** (1 / num_clusters)
    low, high = bounds
    return low + (mean - low) * seen, high - (high - mean) * seen
