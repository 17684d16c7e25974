"""A judge's win rate corrected by people's votes on some of its pairs.

In: a judge's scores of all pairs, and people's of some that were drawn at random. Out: the win rate
by people's preference, whatever the judge is. A judge that errs at random pulls every win rate
towards one half, and so towards PASS; one that prefers the student's style may show anything.

Shape legend: N pairs, L of them with a vote.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from statistics import NormalDist

import numpy as np

from compare.verdict.intervals import MeanInterval, mean_interval
from potstill.errors import PotstillError
from potstill.verdict.scores import Floats, checked_values

NUM_WEIGHTS = 21
"""Weights of the judge to choose from."""


def human_corrected(
    judge_scores: Sequence[float] | Floats,
    human_scores: Sequence[float | None],
    clusters: Sequence[Hashable] | None = None,
    *,
    alpha: float,
    known: Sequence[bool] | None = None,
) -> MeanInterval:
    """Estimate the win rate by human preference, whatever the judge's bias and noise.

    The mean over all pairs of ½ + w·j, and of N/L·(h - w·j) more where there is a vote, for judge
    and human scores j and h less ½: without bias for any w, if votes are on pairs drawn at random.
    w, from 0 to 1, is the one with the narrowest interval. These values are bounded, so that the
    test of every mean applies to them; an interval by Student's t is too narrow with few votes or
    many ties. Pairs whose score is known without reading, such as equal answers, which no one votes
    on, enter with it.

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
    weight = _weight(judge_N[open_N], judge_N[voted_N], human_L, alpha)
    per_vote = int(open_N.sum()) / len(human_L)
    values_N = np.where(open_N, 0.5 + weight * (judge_N - 0.5), judge_N)
    values_N[voted_N] += per_vote * (human_L - 0.5 - weight * (judge_N[voted_N] - 0.5))
    farthest = float(_farthest(np.array(weight), per_vote))
    bounds = (0.5 - farthest, 0.5 + farthest)
    return mean_interval(np.clip(values_N, *bounds), clusters, alpha=alpha, bounds=bounds)


def _farthest(weight: Floats, per_vote: float) -> Floats:
    """Return the largest distance of a value from ½."""
    return (per_vote + (per_vote - 1) * weight) / 2


def _weight(judge_N: Floats, judge_L: Floats, human_L: Floats, alpha: float) -> float:
    """Return the weight of the judge with the narrowest interval: 0 ignores it.

    The test adds one more value, the worst possible one (`reweighting`). For its distance u from
    the mean the bound is about (u + z·√(N²·variance + u²))/N below it. A judge that is right in all
    of few votes has no variance left, and the larger u.
    """
    weights_W = np.linspace(0, 1, NUM_WEIGHTS)
    num_pairs, num_votes = len(judge_N), len(human_L)
    if num_pairs == num_votes:
        return 0.0
    left_LW = human_L[:, None] - weights_W * judge_L[:, None]
    variance_W = left_LW.var(axis=0, ddof=1) / num_votes
    variance_W += weights_W**2 * judge_N.var(ddof=1) / (num_pairs - num_votes)
    unseen_W = _farthest(weights_W, num_pairs / num_votes) / num_pairs
    z = -NormalDist().inv_cdf(alpha)  # An alpha of many comparisons before is lost in 1 - alpha.
    return float(weights_W[np.argmin(unseen_W + z * np.sqrt(variance_W + unseen_W**2))])
