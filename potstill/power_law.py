"""How an error falls with the amount of data: a power law, with the uncertainty of its points.

In: for each amount, the value in [0, 1] of every reference. Out: the fitted exponent, and values
projected for other amounts, with intervals.

Source: Hestness et al. 2017, "Deep Learning Scaling is Predictable, Empirically", equation 1,
without its constant, which three points cannot show.

Shape legend: S amounts, R references, B resamples, F projected amounts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from potstill.facts.curve import Interval

NUM_RESAMPLES = 2000
CONFIDENCE = 0.90
LEAST_ERRORS = 0.5
"""What stands for no error at all among the references: its logarithm is finite."""


@dataclass(frozen=True)
class PowerLaw:
    """error = scale · amount^-exponent, fitted to resampled references.

    Attributes:
        scale_B: Scale of each resample; the first is that of the references themselves.
        exponent_B: Exponent of each resample.
    """

    scale_B: NDArray[np.float64]
    exponent_B: NDArray[np.float64]

    @property
    def exponent(self) -> Interval:
        """The exponent; 0: more data bring nothing."""
        return _interval(self.exponent_B)

    def value(self, amount: float) -> Interval:
        """Return the value that an amount of data would reach."""
        return _interval(np.clip(1.0 - self.scale_B * amount**-self.exponent_B, 0.0, 1.0))


def fit(amounts: Sequence[float], values_SR: NDArray[Any], seed: int = 0) -> PowerLaw:
    """Fit the law by least squares of logarithms, weighted by the points' precision.

    References are resampled, the same for all amounts: intervals are of the choice of references,
    not of the choice of training data or its order.

    Args:
        amounts: At least two different ones.
        values_SR: From 0 to 1.
    """
    errors_SR = 1.0 - np.asarray(values_SR, dtype=np.float64)
    num_references = errors_SR.shape[1]
    draw = np.random.default_rng(seed)
    chosen_BR = draw.integers(num_references, size=(NUM_RESAMPLES, num_references))
    resampled_BS = np.stack([row_R[chosen_BR].mean(1) for row_R in errors_SR], axis=1)
    errors_BS = np.concatenate([errors_SR.mean(1)[None], resampled_BS])
    least = LEAST_ERRORS / num_references
    logs_BS = np.log(np.maximum(errors_BS, least))
    # The variance of log(error) is that of the mean over its square; at least one error's worth.
    error_S = np.maximum(errors_SR.mean(1), least)
    variance_S = np.maximum(errors_SR.var(1), least) / num_references / error_S**2
    weight_S = 1.0 / variance_S
    x_S = np.log(np.asarray(amounts, dtype=np.float64))
    x_S = x_S - (mean_x := float(np.average(x_S, weights=weight_S)))
    slope_B = logs_BS @ (weight_S * x_S) / (weight_S * x_S**2).sum()
    mean_B = np.average(logs_BS, axis=1, weights=weight_S)
    return PowerLaw(np.exp(mean_B - slope_B * mean_x), -slope_B)


def mean_interval(values_R: NDArray[Any], seed: int = 0) -> Interval:
    """Return a mean with the interval of its bootstrap."""
    draw = np.random.default_rng(seed)
    chosen_BR = draw.integers(len(values_R), size=(NUM_RESAMPLES, len(values_R)))
    return _interval(np.concatenate([[np.mean(values_R)], values_R[chosen_BR].mean(1)]))


def _interval(found_B: NDArray[np.float64]) -> Interval:
    """Return the first value, and percentiles of the others."""
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(found_B[1:], [tail, 100 - tail])
    return Interval(value=float(found_B[0]), low=float(low), high=float(high))
