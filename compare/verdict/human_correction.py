"""A judge's win rate corrected by people's votes on some of its pairs.

In: a judge's scores of all pairs, and people's of some that were drawn at random. Out: the win rate
by people's preference, whatever the judge is. A judge that errs at random pulls every win rate
towards one half, and so towards PASS; one that prefers the student's style may show anything.

Shape legend: N pairs, L of them with a vote.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from compare.verdict.intervals import MeanInterval, mean_interval
from potstill.errors import PotstillError
from potstill.verdict.scores import Floats, checked_values

LEAST_HUMAN_VOTES = 50
"""Votes from which on the corrected win rate decides. Its bounds hold for fewer too; but people's
agreement, and that pairs were drawn at random, cannot be judged by less."""


def human_corrected(
    judge_scores: Sequence[float],
    human_scores: Sequence[float | None],
    clusters: Sequence[Hashable] | None = None,
    *,
    alpha: float,
) -> MeanInterval:
    """Estimate the win rate by human preference, whatever the judge's bias and noise.

    The mean over all pairs of ½ + w·j, and of N/L·(h - w·j) more where there is a vote, for judge
    and human scores j and h less ½: without bias for any w, if votes are on pairs drawn at random.
    w has the least variance, cov(human, judge)/((1 + L/(N - L))·var(judge)), kept in [0, 1]. These
    values are bounded, so that the test of every mean applies to them; an interval by Student's t
    is too narrow with few votes or many ties.

    Source: Angelopoulos, Duchi & Zrnic 2023, "PPI++: Efficient prediction-powered inference",
    eqs. 2 and 8 and example 1, as a mean of one value for each pair.

    Args:
        judge_scores: [N]; any number for a pair that the judge could not read.
        human_scores: [N]; None without a vote.
        clusters: As in `mean_interval`.

    Raises:
        PotstillError: Fewer than two votes, unpaired scores, or one out of bounds.
    """
    judge_N = checked_values(judge_scores)
    voted_N = np.array([score is not None for score in human_scores], dtype=bool)
    human_L = np.array([score for score in human_scores if score is not None], dtype=np.float64)
    if len(voted_N) != len(judge_N) or len(human_L) < 2:
        raise PotstillError(
            "too few votes to correct a judge",
            expected="a judge's score of each pair, and at least two votes",
            found=f"{len(judge_N)} scores, {len(voted_N)} pairs, {len(human_L)} votes",
        )
    human_L = checked_values(human_L)
    weight = _weight(judge_N, judge_N[voted_N], human_L)
    per_vote = len(judge_N) / len(human_L)
    values_N = 0.5 + weight * (judge_N - 0.5)
    values_N[voted_N] += per_vote * (human_L - 0.5 - weight * (judge_N[voted_N] - 0.5))
    farthest = (per_vote + (per_vote - 1) * weight) / 2
    bounds = (0.5 - farthest, 0.5 + farthest)
    return mean_interval(np.clip(values_N, *bounds), clusters, alpha=alpha, bounds=bounds)


def _weight(judge_N: Floats, judge_L: Floats, human_L: Floats) -> float:
    """Return the weight of the judge: 0 ignores it."""
    num_votes, num_without = len(human_L), len(judge_N) - len(human_L)
    variance = float(judge_N.var(ddof=1))
    if variance == 0 or num_without == 0:
        return 0.0
    covariance = float(np.cov(human_L, judge_L)[0, 1])
    return float(np.clip(covariance / ((1 + num_votes / num_without) * variance), 0, 1))
