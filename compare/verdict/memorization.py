"""How often a student completes training answers verbatim, with bounds.

In: which answers were completed. Out: `Memorization`, for report, gate, card and hub.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from compare.measurement.memorization import Completed, Memorized, Planted
from compare.verdict.intervals import MeanInterval, mean_interval
from potstill.facts.memorization import CanaryFigures, Completions, Memorization, Share

MOST_LISTED = 20
"""Conversations that are named; whoever doubts the figure reads these."""
CHANGE = (-1.0, 1.0)


def memorization_of(found: Memorized | None, min_tokens: int, alpha: float) -> Memorization | None:
    """Return the shares of answers that were completed, each with bounds of confidence 1 - alpha.

    Training and held-out answers are different ones: each bound of their difference takes both
    shares' bounds at alpha / 2 (Bonferroni).
    """
    if found is None:
        return None
    short = Memorization(
        min_tokens=min_tokens,
        num_distinct=found.num_distinct,
        canaries=_canaries(found.canaries),
    )
    if not found.trained:
        return short
    completed = [one.conversation_id for one in found.trained if one.by_student]
    return short.model_copy(
        update={
            "trained": _completions(_of_student(found.trained, alpha)),
            "untrained": _untrained(found.trained, alpha),
            "learned": _learned(found.trained, alpha),
            "held_out": _completions(_of_student(found.held_out, alpha)),
            "surplus": _surplus(found, alpha),
            "verbatim": tuple(completed[:MOST_LISTED]),
        }
    )


def _of_student(rows: Sequence[Completed], alpha: float) -> MeanInterval | None:
    if not rows:
        return None
    clusters = [one.cluster_id for one in rows]
    return mean_interval([float(one.by_student) for one in rows], clusters, alpha=alpha)


def _untrained(rows: Sequence[Completed], alpha: float) -> Completions | None:
    values = [float(one.by_untrained) for one in rows if one.by_untrained is not None]
    if not values:
        return None
    clusters = [one.cluster_id for one in rows]
    return _completions(mean_interval(values, clusters, alpha=alpha))


def _learned(rows: Sequence[Completed], alpha: float) -> Share | None:
    values = [
        float(one.by_student) - float(one.by_untrained)
        for one in rows
        if one.by_untrained is not None
    ]
    if not values:
        return None
    clusters = [one.cluster_id for one in rows]
    return _share(mean_interval(values, clusters, alpha=alpha, bounds=CHANGE))


def _surplus(found: Memorized, alpha: float) -> Share | None:
    held_out = _of_student(found.held_out, alpha / 2)
    trained = _of_student(found.trained, alpha if held_out is None else alpha / 2)
    if trained is None:
        return None
    if held_out is None:
        return _share(trained)
    return Share(
        value=trained.mean - held_out.mean,
        lower=trained.lower - held_out.upper,
        upper=trained.upper - held_out.lower,
    )


def _canaries(found: Sequence[Planted]) -> CanaryFigures | None:
    if not found:
        return None
    from scipy.stats import chi2

    exposures = [math.log2(one.num_candidates) - math.log2(one.rank) for one in found]
    return CanaryFigures(
        num_candidates=found[0].num_candidates,
        exposures_bits=tuple(exposures),
        num_verbatim=sum(one.is_verbatim for one in found),
        p_value=float(chi2.sf(2 * math.log(2) * sum(exposures), 2 * len(exposures))),
    )


def _completions(interval: MeanInterval | None) -> Completions | None:
    if interval is None:
        return None
    return Completions(num_answers=interval.num_values, share=_share(interval))


def _share(interval: MeanInterval) -> Share:
    return Share(value=interval.mean, lower=interval.lower, upper=interval.upper)
