"""What decides for a judge that prefers: people's votes on some of its pairs.

In: its decided pairs and its figures without votes, people's scores. Out: the fields of its report
that they change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from compare.judges.protocol import PairKey
from compare.verdict.checks import Health
from compare.verdict.human_correction import LEAST_HUMAN_VOTES, human_corrected
from compare.verdict.intervals import MeanInterval
from compare.verdict.non_inferiority import outcome_of_bounds
from compare.verdict.results import HumanCorrected, Sensitivity, bounds_in_words
from compare.verdict.scale import Decided, scale_of
from potstill.verdict.outcome import Outcome, Plan
from potstill.verdict.sample_size import pairs_for_non_inferiority

MOST_TIES = 0.9
"""Share of ties above which the number of votes is not extrapolated."""


def by_preference(
    decided: Sequence[Decided],
    plan: Plan,
    health: Health,
    people: Mapping[PairKey, float],
    figures: Mapping[str, Any],
) -> dict[str, object]:
    """Return what decides for a judge that prefers, and what it would say alone.

    How much of a difference it sees is known for the assay's answers only, not for real ones. So a
    PASS is that of people's votes on some pairs, with the judge's scores of all.
    """
    alone = outcome_alone(scale_of(False, plan).interval(decided), health.sensitivity, plan)
    corrected = _human_corrected(decided, plan, people)
    found: dict[str, object] = {
        "sensitivity": health.sensitivity,
        "alone": alone,
        "human_corrected": corrected,
    }
    if corrected is not None:
        bounds = bounds_in_words(corrected.lower, corrected.upper, plan.alpha)
        reason = (
            f"win rate by people's preference {corrected.rate:.3f}, {bounds}, from "
            f"{corrected.num_human_votes} votes and {corrected.num_judged} judged pairs; "
            f"PASS needs the lower bound above {plan.win_rate_threshold:.3f}; the judge alone: "
            f"{alone}, "
            f"{figures['reason']}"
        )
        return found | {"outcome": corrected.outcome, "reason": reason}
    if figures["outcome"] is not Outcome.FAIL:
        needed = votes_needed(plan, figures["estimate"].tie_share, health.sensitivity)
        reason = (
            f"judge not verified on real pairs: PASS needs {LEAST_HUMAN_VOTES} or more of people's "
            f"votes on pairs drawn at random, at parity about {needed}; the judge alone: {alone}, "
            f"{figures['reason']}"
        )
        return found | {"outcome": Outcome.INCONCLUSIVE, "reason": reason}
    return found


def outcome_alone(interval: MeanInterval, sensitivity: Sensitivity | None, plan: Plan) -> Outcome:
    """Return the outcome of a judge that prefers against the margin as it sees it.

    Half of alpha is for the lower bound of its sensitivity, half for the win rate. Noise only moves
    a win rate towards one half, so that FAIL needs no correction.
    """
    if interval.upper < plan.win_rate_threshold:
        return Outcome.FAIL
    seen = plan.margin * (sensitivity.lower if sensitivity else 0.0)
    is_shown = interval.p_at_most(0.5 - seen) < plan.alpha / 2
    return Outcome.PASS if is_shown else Outcome.INCONCLUSIVE


def votes_needed(plan: Plan, tie_share: float, sensitivity: Sensitivity | None) -> int:
    """Return how many votes let a student at parity pass with the plan's power.

    For a judge whose scores correlate with people's as strongly as its sensitivity says, and many
    more judged pairs than votes: the variance of a vote, less the share that the judge explains.
    """
    explained = sensitivity.lower**2 if sensitivity else 0.0
    pairs = pairs_for_non_inferiority(plan, tie_share=min(tie_share, MOST_TIES))
    return max(LEAST_HUMAN_VOTES, math.ceil((1 - explained) * pairs))


def _human_corrected(
    decided: Sequence[Decided], plan: Plan, people: Mapping[PairKey, float]
) -> HumanCorrected | None:
    """Return the win rate by people's preference; None with too few votes on judged pairs."""
    known = [one.judgment.note is not None for one in decided]
    votes = [
        None if is_known else people.get(one.pair.key)
        for one, is_known in zip(decided, known, strict=True)
    ]
    num_votes = sum(vote is not None for vote in votes)
    if num_votes < LEAST_HUMAN_VOTES:
        return None
    scores = [one.judgment.score or 0.0 for one in decided]
    clusters = [one.cluster for one in decided]
    found = human_corrected(scores, votes, clusters, alpha=plan.alpha, known=known)
    lower, upper = max(0.0, found.lower), min(1.0, found.upper)
    return HumanCorrected(
        rate=min(1.0, max(0.0, found.mean)),
        lower=lower,
        upper=upper,
        standard_error=found.standard_error,
        num_human_votes=num_votes,
        num_judged=len(decided),
        outcome=outcome_of_bounds(lower, upper, plan.win_rate_threshold),
    )
