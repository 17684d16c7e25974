"""From a judge's judgments to its part of the report.

In: opinions, the plan. Out: `JudgeReport`s.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from compare.judges.panel import Opinion
from compare.judges.protocol import Pair, PairKey
from compare.verdict.health import control_row, health_of
from compare.verdict.holm import adjusted_outcomes
from compare.verdict.intervals import MeanInterval
from compare.verdict.mcnemar import mcnemar
from compare.verdict.non_inferiority import further_values, outcome_of_bounds
from compare.verdict.preference import by_preference
from compare.verdict.results import Discordance, JudgeReport, Side, Slice, bounds_in_words
from compare.verdict.scale import Decided, Scale, scale_of
from potstill.task.answers import Score
from potstill.task.metrics.label import LabelReport, label_report
from potstill.verdict.outcome import Outcome, Plan

VOTES = "votes"
FEWEST_CLUSTERS = 2
"""A slice of one cluster has no spread and is left out."""


def report_on(
    opinion: Opinion,
    plan: Plan,
    cluster_of: Callable[[Pair], str],
    *,
    decides: bool,
    people: Mapping[PairKey, float],
) -> JudgeReport:
    """Return a judge's part of the report.

    Args:
        people: People's scores of pairs, some of which may be the judge's.
    """
    judged = opinion.judged
    decided = [
        Decided(pair, judgment, cluster_of(pair))
        for pair, judgment in opinion.judged_pairs
        if judgment.score is not None or judgment.votes
    ]
    num_read = sum(not one.is_unread for one in decided)
    is_similarity = judged.claim == "similarity"
    health = health_of(judged, plan)
    report = JudgeReport(
        name=judged.name,
        kind=judged.kind,
        claim=judged.claim,
        model=judged.model,
        decides=decides,
        outcome=None if is_similarity else Outcome.INVALID_JUDGE,
        reason="nothing was judged" if health.is_valid else health.reason,
        estimate=None,
        checks=health.checks,
        controls=tuple(control_row(control, plan) for control in judged.controls),
        num_failed=len(opinion.judged_pairs) - num_read,
        usage=judged.usage,
    )
    if not health.is_valid or not num_read:
        return report
    figures = _figures(decided, scale_of(judged.measures, plan), is_similarity)
    if judged.measures:
        figures["problems"] = _problems(decided)
    if opinion.labels is not None:
        figures["labels"] = _labels(decided, opinion.labels)
    if judged.needs_assay and not judged.measures and judged.kind != VOTES:
        figures |= by_preference(decided, plan, health, people, figures)
    return report.model_copy(update=figures)


def _figures(decided: Sequence[Decided], scale: Scale, is_similarity: bool) -> dict[str, object]:
    interval = scale.interval(decided)
    outcome = outcome_of_bounds(interval.lower, interval.upper, scale.threshold)
    further = further_values(interval, scale.threshold, scale.plan)
    if further is not None:  # Several answers to one prompt are several values.
        num_prompts = len({one.pair.question.prompt_id for one in decided})
        further = math.ceil(further * num_prompts / len(decided))
    return {
        "outcome": None if is_similarity else outcome,
        "reason": _reason(outcome, interval, scale, further, decides=not is_similarity),
        "estimate": scale.estimate(interval, decided),
        "further_prompts": further if outcome is Outcome.INCONCLUSIVE else None,
        "discordance": _discordance(decided),
        "slices": tuple(_slices(decided, scale)),
    }


def _slices(decided: Sequence[Decided], scale: Scale) -> list[Slice]:
    """Return the slices that are not all prompts, each at Holm's level among all."""
    groups: dict[tuple[str, str], list[Decided]] = {}
    for one in decided:
        for name in one.pair.question.slices.items():
            groups.setdefault(name, []).append(one)
    groups = {
        name: group
        for name, group in groups.items()
        if len(group) < len(decided)
        and len({one.cluster for one in group}) >= FEWEST_CLUSTERS
        and not all(one.is_unread for one in group)
    }
    intervals = [scale.interval(group) for group in groups.values()]
    found = adjusted_outcomes(intervals, scale.threshold, scale.plan.alpha)
    return [
        Slice(
            key=key,
            value=value,
            estimate=scale.estimate(interval, group),
            p_adjusted=adjusted.p_not_inferior,
            outcome=adjusted.outcome,
        )
        for ((key, value), group), interval, adjusted in zip(
            groups.items(), intervals, found, strict=True
        )
    ]


def _discordance(decided: Sequence[Decided]) -> Discordance | None:
    """Return McNemar's test where every measurement is 0 or 1."""
    values = [(one.judgment.student_value, one.judgment.teacher_value) for one in decided]
    if not all(value in (0.0, 1.0) for pair in values for value in pair):
        return None
    return mcnemar(*zip(*values, strict=True))


def _problems(decided: Sequence[Decided]) -> dict[Side, dict[str, int]]:
    """Return the number of answers by problem, without what follows its first colon."""

    def counted(problems: Iterable[str | None]) -> dict[str, int]:
        heads = Counter(problem.partition(":")[0] for problem in problems if problem)
        return dict(heads.most_common())

    return {
        "student": counted(one.judgment.student_problem for one in decided),
        "teacher": counted(one.judgment.teacher_problem for one in decided),
    }


def _labels(decided: Sequence[Decided], order: Sequence[str]) -> dict[Side, LabelReport]:
    judgments = [one.judgment for one in decided]

    def report(found: Iterable[str | None]) -> LabelReport:
        pairs = zip(found, judgments, strict=True)
        scores = (Score(value=0.0, found=one, expected=said.expected) for one, said in pairs)
        return label_report(scores, order)

    return {
        "student": report(one.student_found for one in judgments),
        "teacher": report(one.teacher_found for one in judgments),
    }


def _reason(
    outcome: Outcome, interval: MeanInterval, scale: Scale, further: int | None, *, decides: bool
) -> str:
    bounds = bounds_in_words(interval.lower, interval.upper, scale.plan.alpha)
    reason = f"{scale.name} {interval.mean:.3f}, {bounds}"
    if not decides:
        return f"{reason}; similarity decides nothing"
    reason += f"; PASS needs the lower bound above {scale.threshold:.3f}"
    if interval.num_unread:
        reason += f"; {interval.num_unread} unread pairs count against either outcome"
    if outcome is not Outcome.INCONCLUSIVE:
        return reason
    more = "more than a million" if further is None else f"about {further:,}"
    return f"{reason}; at this rate, a comparison on {more} more prompts would decide"
