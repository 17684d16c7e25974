"""The estimate by people's votes or labels on some of a judge's pairs.

In: a judge's decided pairs, people's scores of some of them. Out: the estimate and its outcome,
right whatever the judge is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compare.judges.protocol import PairKey
from compare.verdict.human_correction import human_corrected
from compare.verdict.non_inferiority import outcome_of_bounds
from compare.verdict.results import HumanCorrected
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
    found = human_corrected(
        [one.judgment.score or 0.0 for one in decided],
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
        outcome=outcome_of_bounds(lower, upper, scale.threshold),
    )
