"""Exact probabilities of PASS where each pair is a win, a tie or a loss.

In: a test of non-inferiority, the number of pairs, the true win rate and share of ties. Out: the
probability of PASS by enumeration, without simulation.

With m of n pairs decided, a test passes from some number of wins on, which grows by at most one
with m. So one search through m finds the region, and PASS has the probability
Σ_m P(m decided) · P(at least k_m wins of m).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from compare.verdict.reweighting import p_at_most

PValue = Callable[[int, int, int, float], float]
"""Of wins, ties and losses and the threshold: the p-value of "the win rate is at most that"."""
Counts = NDArray[np.int64]


def reweighting(wins: int, ties: int, losses: int, threshold: float) -> float:
    """Return the p-value of the product's test."""
    scores_N = np.repeat([1.0, 0.5, 0.0], [wins, ties, losses])
    return p_at_most(threshold, scores_N, np.ones_like(scores_N), 0.0)


def student_t(wins: int, ties: int, losses: int, threshold: float) -> float:
    """Return the p-value of Student's t, with the rule of three for scores without spread."""
    from scipy.stats import t

    scores_N = np.repeat([1.0, 0.5, 0.0], [wins, ties, losses])
    mean, error = scores_N.mean(), scores_N.std(ddof=1) / len(scores_N) ** 0.5
    if error == 0:
        return 1.0 if mean <= threshold else float((threshold / mean) ** len(scores_N))
    return float(t.sf((mean - threshold) / error, len(scores_N) - 1))


def least_wins(p_value: PValue, num_pairs: int, threshold: float, alpha: float) -> Counts:
    """Return for each number of decided pairs the least number of wins that passes.

    One more than there are pairs, where no number does. The t test has exceptions: with few
    decided pairs it passes one loss and not none.
    """
    found, least = [], 0
    for decided in range(num_pairs + 1):
        least = max(0, least - 1)
        while least <= decided:
            p = p_value(least, num_pairs - decided, decided - least, threshold)
            if p < alpha:
                break
            least += 1
        found.append(least)
    return np.array(found)


def pass_probability(least_N: Counts, rate: float, tie_share: float) -> float | None:
    """Return the probability of PASS; None where rate and ties contradict each other."""
    from scipy.stats import binom

    num_pairs = len(least_N) - 1
    win_share = (rate - tie_share / 2) / (1 - tie_share)
    if not 0 <= win_share <= 1:
        return None
    decided_N = np.arange(num_pairs + 1)
    chances_N = binom.pmf(decided_N, num_pairs, 1 - tie_share)
    return float(chances_N @ binom.sf(least_N - 1, decided_N, win_share))
