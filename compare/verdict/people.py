"""The estimate by people's votes or labels on some of a judge's pairs.

In: a judge's decided pairs, people's scores of some of them. Out: the estimate and its outcome,
right whatever the judge is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from compare.judges.protocol import PairKey
from compare.verdict.figures import HumanCorrected
from compare.verdict.human_correction import human_corrected
from compare.verdict.non_inferiority import outcome_of_bounds
from compare.verdict.scale import Decided, Scale


def open_scores(decided: Sequence[Decided], people: Mapping[PairKey, float]) -> list[float | None]:
    """Return people's score of each pair that needs a judge; None for all other pairs."""
    return [people.get(one.pair.key) if one.judgment.note is None else None for one in decided]


def by_people(
    decided: Sequence[Decided], people: Mapping[PairKey, float], scale: Scale, *, least: int
) -> HumanCorrected | None:
    """Return the estimate by people; None with fewer than `least` scores of judged pairs."""
    scores = open_scores(decided, people)
    number = sum(score is not None for score in scores)
    if number < least:
        return None
    judge_scores = [one.judgment.score or 0.0 for one in decided]
    shown = shown_preference(judge_scores, scores)
    found = human_corrected(
        judge_scores,
        scores,
        [one.cluster for one in decided],
        alpha=scale.plan.alpha,
        known=[one.judgment.note is not None for one in decided],
    )
    lower, upper = (scale.at(min(1.0, max(0.0, bound))) for bound in (found.lower, found.upper))
    return HumanCorrected(
        rate=scale.at(min(1.0, max(0.0, found.mean))),
        lower=lower,
        upper=upper,
        standard_error=found.standard_error * (scale.bounds[1] - scale.bounds[0]),
        num_human_votes=number,
        num_judged=len(decided),
        sensitivity=shown and shown[0],
        sensitivity_error=shown and shown[1],
        outcome=outcome_of_bounds(lower, upper, scale.threshold),
    )


def shown_preference(
    scores: Sequence[float], people: Sequence[float | None]
) -> tuple[float, float] | None:
    """Return the slope of a judge's scores on people's, both less ½, and its standard error.

    The sensitivity on real pairs: least squares through the origin, with White's error.

    Source: White 1980, Econometrica 48:817, for one regressor.

    Args:
        people: Their score of each pair; None without one.

    Returns:
        None where all that people say is a tie.
    """
    pairs = [
        (human - 0.5, score - 0.5)
        for human, score in zip(people, scores, strict=True)
        if human is not None
    ]
    squares = math.fsum(human**2 for human, _ in pairs)
    if not squares:
        return None
    slope = math.fsum(human * judge for human, judge in pairs) / squares
    spread = math.fsum((human * (judge - slope * human)) ** 2 for human, judge in pairs)
    return slope, math.sqrt(spread) / squares
