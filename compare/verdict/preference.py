"""What decides for a preference judge: people's votes on some of its pairs.

In: its decided pairs and its figures without votes, people's scores. Out: the fields of its report
that they change.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from compare.judges.protocol import PairKey
from compare.verdict.checks import Health
from compare.verdict.figures import Sensitivity, bounds_in_words
from compare.verdict.intervals import MeanInterval
from compare.verdict.people import by_people
from compare.verdict.scale import Decided, scale_of
from potstill.verdict.outcome import Outcome, Plan
from potstill.verdict.sample_size import (
    pairs_for,
    pairs_for_non_inferiority,
    score_variance,
    votes_for,
)

LEAST_HUMAN_VOTES = 50
"""Votes from which on the corrected win rate decides. Its bounds hold for fewer too; but people's
agreement, and that pairs were drawn at random, cannot be judged by less."""
EXPECTED_TIES = 0.3
"""Share of pairs that people call equal, where none is known yet."""
MOST_TIES = 0.9
"""Share of ties above which the number of votes is not extrapolated."""


def by_preference(
    decided: Sequence[Decided],
    plan: Plan,
    health: Health,
    people: Mapping[PairKey, float],
    figures: Mapping[str, Any],
) -> dict[str, object]:
    """Return what decides for a preference judge, and what it would say alone.

    How much of a difference it sees is known for the assay's answers only, not for real ones. So a
    PASS is that of people's votes on some pairs, with the judge's scores of all.
    """
    alone = outcome_alone(scale_of(False, plan).interval(decided), health.sensitivity, plan)
    corrected = by_people(decided, people, scale_of(False, plan), least=LEAST_HUMAN_VOTES)
    found: dict[str, object] = {
        "sensitivity": health.sensitivity,
        "alone": alone,
        "human_corrected": corrected,
    }
    if corrected is not None:
        threshold = plan.win_rate_threshold
        bounds = bounds_in_words(corrected.lower, corrected.upper, plan.alpha, threshold=threshold)
        reason = (
            f"win rate by people's preference {corrected.rate:.3f}, {bounds}, from "
            f"{corrected.num_human_votes} votes and {corrected.num_judged} judged pairs; "
            f"PASS needs the lower bound above {threshold:.3f}; the judge alone: {alone}, "
            f"{figures['reason']}"
        )
        return found | {"outcome": corrected.outcome, "reason": reason}
    if figures["outcome"] is not Outcome.FAIL:
        estimate = figures["estimate"]
        variance = score_variance(0.5, min(estimate.tie_share, MOST_TIES))
        seen = health.sensitivity.lower if health.sensitivity else None
        needed = votes_needed(plan, variance, seen, estimate.num_pairs)
        reason = (
            f"judge not verified on real pairs: PASS needs {LEAST_HUMAN_VOTES} or more of people's "
            f"votes on pairs drawn at random, at parity about {needed}; the judge alone: {alone}, "
            f"{figures['reason']}"
        )
        return found | {"outcome": Outcome.INCONCLUSIVE, "reason": reason}
    return found


def planned_votes(plan: Plan) -> int:
    """Return how many votes a first comparison needs, before anything is known of the judge."""
    return pairs_for_non_inferiority(plan, tie_share=EXPECTED_TIES)


def outcome_alone(interval: MeanInterval, sensitivity: Sensitivity | None, plan: Plan) -> Outcome:
    """Return the outcome of a preference judge against the margin as it sees it.

    Half of alpha is for the lower bound of its sensitivity, half for the win rate. Noise only moves
    a win rate towards one half, so that FAIL needs no correction.
    """
    if interval.upper < plan.win_rate_threshold:
        return Outcome.FAIL
    seen = plan.margin * (sensitivity.lower if sensitivity else 0.0)
    is_shown = interval.p_at_most(0.5 - seen) < plan.alpha / 2
    return Outcome.PASS if is_shown else Outcome.INCONCLUSIVE


def level_of_first_votes(plan: Plan, num_votes: float) -> float:
    """Return the error rate of a first comparison with so many votes.

    Args:
        plan: Its alpha is that of a first comparison with all planned votes.
    """
    return plan.alpha * min(1.0, num_votes / planned_votes(plan))


def votes_needed(
    plan: Plan, variance: float, sensitivity: float | None, num_judged: float = math.inf
) -> int:
    """Return how many votes let a student at parity pass a first comparison with the plan's power.

    Fewer votes have a smaller error rate, so that a judge that explains much of people's votes
    saves less of them than at the same rate.

    Args:
        plan: As in `level_of_first_votes`.
        variance: Of a vote.
        sensitivity: Of the judge, whose scores correlate as strongly with people's; None: unknown.
        num_judged: May be infinite.
    """
    explained = (sensitivity or 0.0) ** 2

    def is_enough(num_votes: int) -> bool:
        tested = replace(plan, alpha=level_of_first_votes(plan, num_votes))
        return num_votes >= votes_for(
            pairs_for(tested, variance, plan.margin), num_judged, explained
        )

    enough = max(LEAST_HUMAN_VOTES, planned_votes(plan), pairs_for(plan, variance, plan.margin))
    return bisect_left(range(enough), True, lo=LEAST_HUMAN_VOTES, key=is_enough)
