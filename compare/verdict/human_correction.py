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
    known: Sequence[bool] | None = None,
) -> MeanInterval:
    """Estimate the win rate by human preference, whatever the judge's bias and noise.

    The mean over all pairs of ½ + w·j, and of N/L·(h - w·j) more where there is a vote, for judge
    and human scores j and h less ½: without bias for any w, if votes are on pairs drawn at random.
    w has the least variance, cov(human, judge)/((1 + L/(N - L))·var(judge)), kept in [0, 1]. These
    values are bounded, so that the test of every mean applies to them; an interval by Student's t
    is too narrow with few votes or many ties. Pairs whose score is known without reading, such as
    equal answers, which no one votes on, enter with it.

    Source: Angelopoulos, Duchi & Zrnic 2023, "PPI++: Efficient prediction-powered inference",
    eqs. 2 and 8 and example 1, as a mean of one value for each pair.

    Args:
        judge_scores: [N]; any number for a pair that the judge could not read.
        human_scores: [N]; None without a vote.
        clusters: As in `mean_interval`.
        known: [N]; whether the judge's score is certain. Votes are drawn from the other pairs.

    Raises:
        PotstillError: Fewer than two votes, unpaired scores, or one out of bounds.
    """
    judge_N = checked_values(judge_scores)
    if len(human_scores) != len(judge_N):
        raise PotstillError(
            "not one vote or None for each pair", expected=len(judge_N), found=len(human_scores)
        )
    open_N = ~np.array(known, dtype=bool) if known else np.ones(len(judge_N), dtype=bool)
    voted_N = np.array([score is not None for score in human_scores], dtype=bool) & open_N
    votes = [score for score, is_voted in zip(human_scores, voted_N, strict=True) if is_voted]
    if len(votes) < 2:
        raise PotstillError(
            "too few votes to correct a judge", expected="at least two", found=len(votes)
        )
    human_L = checked_values([score or 0.0 for score in votes])
    weight = _weight(judge_N[open_N], judge_N[voted_N], human_L)
    per_vote = int(open_N.sum()) / len(human_L)
    values_N = np.where(open_N, 0.5 + weight * (judge_N - 0.5), judge_N)
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
