"""Verdicts on slices of the prompts (languages, topics, lengths), adjusted for their number.

In: the interval of each slice. Out: its outcome, with adjusted p-values. Slices may overlap: Holm's
procedure holds under any dependence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compare.verdict.intervals import MeanInterval
from potstill.verdict.outcome import Outcome


@dataclass(frozen=True)
class Adjusted:
    """The result of one slice among all."""

    p_not_inferior: float
    """p-value of "worse by the margin or more", after Holm: below alpha the slice passes."""
    outcome: Outcome


def adjusted_outcomes(
    intervals: Sequence[MeanInterval], threshold: float, alpha: float
) -> list[Adjusted]:
    """Return each slice's outcome; a wrong PASS among all has a probability of at most alpha.

    So has a wrong FAIL. A slice fails by its p-value of "worse by the margin at most".
    """
    not_inferior = holm([interval.p_at_most(threshold) for interval in intervals])
    inferior = holm([interval.p_at_least(threshold) for interval in intervals])
    return [
        Adjusted(passing, _outcome(passing, failing, alpha))
        for passing, failing in zip(not_inferior, inferior, strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number: sorted, times m, m - 1, ..., 1, never falling.

    Source: Holm 1979, Scand. J. Statist. 6:65.
    """
    order = np.argsort(p_values)
    factors = np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate(np.asarray(p_values)[order] * factors)
    return [float(p) for p in np.minimum(adjusted, 1.0)]


def _outcome(p_not_inferior: float, p_inferior: float, alpha: float) -> Outcome:
    if p_not_inferior < alpha:
        return Outcome.PASS
    return Outcome.FAIL if p_inferior < alpha else Outcome.INCONCLUSIVE
