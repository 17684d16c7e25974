"""A judge's win rate corrected by people's votes on some of its pairs.

In: a judge's scores, and people's scores of some of the same pairs. Out: the win rate by people's
preference. A judge that errs at random pulls every win rate towards one half, and so towards PASS.

Shape legend: L pairs with a human vote, U pairs without.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from potstill.errors import PotstillError
from potstill.verdict.scores import checked_values

LEAST_HUMAN_VOTES = 20
"""With fewer, the normal approximation of the correction is not reliable."""


@dataclass(frozen=True)
class CorrectedWinRate:
    """A win rate by human preference, from few human votes and many of a judge."""

    rate: float
    standard_error: float
    lower: float
    """One-sided, of confidence 1 - alpha, as is `upper`."""
    upper: float
    num_human_votes: int
    num_judged: int
    judge_weight: float
    """Weight of the judge: 0 ignores it, 1 weights it like a person, after correction of its
    bias."""


def human_corrected_win_rate(
    judge_scores_without_votes: ArrayLike,
    judge_scores: ArrayLike,
    human_scores: ArrayLike,
    *,
    alpha: float,
) -> CorrectedWinRate:
    """Estimate the win rate by human preference, whatever the judge's bias.

    w·mean_U(judge) + mean_L(human - w·judge), with the weight w of least variance,
    cov_L(human, judge)/((1 + L/U)·var(judge)), kept in [0, 1]. Bounds by Student's t with L - 1
    degrees of freedom. One score per conversation: average its pairs first.

    Source: Angelopoulos, Duchi & Zrnic 2023, "PPI++: Efficient prediction-powered inference",
    eqs. 2 and 8 and example 1.

    Args:
        judge_scores_without_votes: [U], of pairs without a vote.
        judge_scores: [L], of the pairs with a vote, in the order of `human_scores`.

    Raises:
        PotstillError: Fewer than 20 votes or two pairs without, unpaired scores, or one out of
            bounds.
    """
    from scipy.stats import t

    judge_U, judge_L = checked_values(judge_scores_without_votes), checked_values(judge_scores)
    human_L = checked_values(human_scores)
    num_votes, num_without = len(human_L), len(judge_U)
    if len(judge_L) != num_votes or num_votes < LEAST_HUMAN_VOTES or num_without < 2:
        raise PotstillError(
            "too few votes to correct a judge",
            expected=f"at least {LEAST_HUMAN_VOTES} votes with the judge's score of each, "
            "and two pairs without",
            found=f"{num_votes} votes, {len(judge_L)} scores beside them, {num_without} without",
        )
    judge_variance = float(np.var(np.concatenate([judge_L, judge_U]), ddof=1))
    covariance = float(np.cov(human_L, judge_L)[0, 1])
    weight = 0.0
    if judge_variance > 0:
        best = covariance / ((1 + num_votes / num_without) * judge_variance)
        weight = float(np.clip(best, 0, 1))
    rate = float(weight * judge_U.mean() + (human_L - weight * judge_L).mean())
    variance = weight**2 * judge_U.var(ddof=1) / num_without
    variance += (human_L - weight * judge_L).var(ddof=1) / num_votes
    radius = float(t.isf(alpha, num_votes - 1)) * float(variance) ** 0.5
    return CorrectedWinRate(
        rate=float(np.clip(rate, 0, 1)),
        standard_error=float(variance) ** 0.5,
        lower=max(0.0, rate - radius),
        upper=min(1.0, rate + radius),
        num_human_votes=num_votes,
        num_judged=num_votes + num_without,
        judge_weight=weight,
    )
