"""Verdicts on parts of the prompts (languages, topics, lengths) without claiming too much.

In: scores of all pairs and which rows are in which slice. Out: a verdict for each slice, with
p-values adjusted for their number, the worst first. Knows nothing of what a slice is.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from potstill.errors import PotstillError
from potstill.verdict.intervals import checked_values, mean_interval
from potstill.verdict.non_inferiority import WinRate, win_rate
from potstill.verdict.outcome import Outcome, Plan


@dataclass(frozen=True)
class SliceVerdict:
    """A slice's win rate, and what may be said of it beside all other slices."""

    name: str
    win_rate: WinRate
    """With bounds of this slice alone."""
    p_not_inferior: float
    """P-value of "worse by the margin or more", after Holm: below alpha the slice passes."""
    p_inferior: float
    """P-value of "worse by the margin at most", after Holm: below alpha the slice fails."""
    outcome: Outcome


def slice_verdicts(
    scores: ArrayLike,
    slices: Mapping[str, Sequence[int]],
    plan: Plan,
    clusters: Sequence[Hashable] | None = None,
) -> list[SliceVerdict]:
    """Judge every slice, so that one wrong PASS among all of them has a probability below alpha.

    Likewise one wrong FAIL. Slices may overlap: Holm's procedure holds under any dependence.

    Args:
        scores: The student's score in each pair, 0 to 1.
        slices: Rows of each slice.
        clusters: Conversation, user or template of each pair.

    Returns:
        Slices in order of the evidence that the student is worse there, the worst first.

    Raises:
        PotstillError: A slice without rows, a score out of bounds, or not a cluster for each.
    """
    scores_N = checked_values(scores)
    if clusters is not None and len(clusters) != len(scores_N):
        raise PotstillError(
            "Each pair needs its cluster.", expected=len(scores_N), found=len(clusters)
        )
    win_rates, p_not_inferior, p_inferior = [], [], []
    for name, rows in slices.items():
        if not len(rows):
            raise PotstillError("A slice has no pairs.", where=name)
        inside = scores_N[np.asarray(rows)]
        groups = None if clusters is None else [clusters[row] for row in rows]
        interval = mean_interval(inside, groups, alpha=plan.alpha)
        p_not_inferior.append(interval.p_at_most(plan.win_rate_threshold))
        p_inferior.append(interval.p_at_least(plan.win_rate_threshold))
        win_rates.append(win_rate(inside, groups, alpha=plan.alpha))
    columns = (list(slices), win_rates, holm(p_not_inferior), holm(p_inferior))
    verdicts = [
        SliceVerdict(name, rate, passing, failing, _outcome(passing, failing, plan))
        for name, rate, passing, failing in zip(*columns, strict=True)
    ]
    return [verdicts[row] for row in np.argsort(p_inferior, kind="stable")]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number.

    Source: Holm 1979, Scand. J. Statist. 6:65, through statsmodels.stats.multitest.
    """
    from statsmodels.stats.multitest import multipletests

    if not len(p_values):
        return []
    return [float(p) for p in multipletests(p_values, method="holm")[1]]


def _outcome(p_not_inferior: float, p_inferior: float, plan: Plan) -> Outcome:
    if p_not_inferior < plan.alpha:
        return Outcome.PASS
    return Outcome.FAIL if p_inferior < plan.alpha else Outcome.INCONCLUSIVE
