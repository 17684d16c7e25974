"""How often a student completes training answers verbatim, with bounds.

In: which answers were completed. Out: `Memorization`, for report, gate, card and hub.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from compare.measurement.memorization import Completed, Memorized, Planted
from compare.verdict.intervals import MeanInterval, mean_interval
from potstill.facts.memorization import CanaryFigures, Completions, Memorization, Share

MOST_LISTED = 20
"""Conversations that are named; whoever doubts the figure reads these."""
SHARES, CHANGE = (0.0, 1.0), (-1.0, 1.0)
"""Bounds of a share, and of a difference of two."""


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
    completed = sorted(
        (one for one in found.trained if one.by_student), key=lambda one: one.by_teacher
    )
    asked = [one for one in found.trained if one.by_untrained is not None]
    return short.model_copy(
        update={
            "trained": _completions(_interval(found.trained, _by_student, alpha)),
            "untrained": _completions(_interval(asked, _by_untrained, alpha)),
            "learned": _share(_interval(asked, _learned, alpha, CHANGE)),
            "held_out": _completions(_interval(found.held_out, _by_student, alpha)),
            "surplus": _surplus(found, alpha),
            "num_by_teacher": sum(one.by_teacher for one in completed),
            "verbatim": tuple(one.conversation_id for one in completed[:MOST_LISTED]),
        }
    )


def _by_student(one: Completed) -> float:
    return float(one.by_student)


def _by_untrained(one: Completed) -> float:
    return float(one.by_untrained or False)


def _learned(one: Completed) -> float:
    return _by_student(one) - _by_untrained(one)


def _interval(
    rows: Sequence[Completed],
    value: Callable[[Completed], float],
    alpha: float,
    bounds: tuple[float, float] = SHARES,
) -> MeanInterval | None:
    """Return the mean of a value of each answer; None without answers."""
    if not rows:
        return None
    clusters = [one.cluster_id for one in rows]
    return mean_interval([value(one) for one in rows], clusters, alpha=alpha, bounds=bounds)


def _surplus(found: Memorized, alpha: float) -> Share | None:
    held_out = _interval(found.held_out, _by_student, alpha / 2)
    trained = _interval(found.trained, _by_student, alpha / 2 if held_out else alpha)
    if trained is None or held_out is None:
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
    share = _share(interval)
    return Completions(num_answers=interval.num_values, share=share) if interval and share else None


def _share(interval: MeanInterval | None) -> Share | None:
    if interval is None:
        return None
    return Share(value=interval.mean, lower=interval.lower, upper=interval.upper)
