"""The p-value of "the mean is at most a threshold", for bounded values in clusters.

In: the sum and the number of values of each cluster. Out: a p-value without assumptions about the
shape of the distribution: ties, skewed clusters and values without spread need no case of their
own.

Each cluster has an exponential weight, and one more cluster with the worst possible values has one
too. The p-value is the probability that the weighted mean is at most the threshold. For correct or
wrong answers this is the exact binomial test (Clopper & Pearson 1934), for equal values the rule of
three, and with many values it approaches Student's t. That it never rejects too often is proved for
correct or wrong answers and conjectured for all bounded values (Gaffke 2005); `benchmarks/verdict`
enumerates win, tie and loss. Clusters of unequal sizes are taken as they come: the additional one
has the size of the cluster in which a value is on average, Σ N_g²/Σ N_g, so a size that has never
been seen is not protected against.

Source: Gaffke 2005, "Three test statistics for a nonparametric one-sided hypothesis on the mean of
a nonnegative variable", Math. Methods Statist. 14:451; Learned-Miller & Thomas 2019, "A New
Confidence Interval for the Mean of a Bounded Random Variable" (arXiv 1905.06208), eqs. 3 to 5, with
uniform spacings as normalized exponentials. Clusters enter by their sum less the threshold times
their size, whose mean is at most 0 under the hypothesis.

Shape legend: G clusters, U different coefficients, K frequencies.
"""

from __future__ import annotations

import math

import numpy as np

from potstill.verdict.scores import Floats

NEGLIGIBLE = 1e-10
"""Frequencies whose characteristic function is smaller are left out."""
MOST_FREQUENCIES = 1 << 15
"""With one or two clusters the characteristic function falls slowly; the error is below 1e-6."""
DEVIATIONS, SCALES = 25.0, 40.0
"""The sum is taken to lie within its mean plus or minus so many standard deviations and largest
coefficients: an exponential variable exceeds 40 times its mean with probability 4e-18."""


def p_at_most(threshold: float, sums_G: Floats, sizes_G: Floats, worst: float) -> float:
    """Return the p-value of "the mean of all values is at most the threshold".

    Args:
        worst: Smallest possible value.
    """
    leads_G = sums_G - threshold * sizes_G
    unseen = (worst - threshold) * float(sizes_G @ sizes_G / sizes_G.sum())
    coefficients_U, counts_U = np.unique(np.append(leads_G, unseen), return_counts=True)
    return _probability_at_most_zero(coefficients_U, counts_U.astype(np.float64))


def _probability_at_most_zero(coefficients_U: Floats, counts_U: Floats) -> float:
    """Return P(Σ_u c_u·X_u <= 0) for independent X_u, sums of `counts` exponential variables.

    ½ - Σ_k Im φ(t_k) / (pi (k + ½)) with φ the characteristic function of the sum at
    t_k = (k + ½)·step.

    Source: Gil-Pelaez 1951, Biometrika 38:481, as Davies 1973, Biometrika 60:415, eq. 5, sums it.
    """
    if coefficients_U.max() <= 0:
        return 1.0
    if coefficients_U.min() >= 0:
        return 0.0
    mean = float(counts_U @ coefficients_U)
    deviation = math.sqrt(counts_U @ coefficients_U**2)
    largest = float(np.abs(coefficients_U).max())
    step = math.pi / (abs(mean) + DEVIATIONS * deviation + SCALES * largest)
    num_frequencies = 64
    while num_frequencies < MOST_FREQUENCIES:
        log_size = -0.5 * counts_U @ np.log1p((coefficients_U * step * num_frequencies) ** 2)
        if log_size < math.log(NEGLIGIBLE):
            break
        num_frequencies *= 2
    halves_K = np.arange(num_frequencies) + 0.5
    angles_KU = step * halves_K[:, None] * coefficients_U
    sizes_K = np.exp(-0.5 * np.log1p(angles_KU**2) @ counts_U)
    turns_K = np.arctan(angles_KU) @ counts_U
    total = float((sizes_K * np.sin(turns_K) / halves_K).sum())
    return min(1.0, max(0.0, 0.5 - total / math.pi))
