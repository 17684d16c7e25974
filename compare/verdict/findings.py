"""From a judge's judgments to its part of the report.

In: opinions, the plan. Out: `JudgeReport`s.

The estimate of a judge that prefers is the win rate with ties one half; that of a judge that
measures each answer is the mean difference. Both are means of bounded values in clusters, tested
against a threshold.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from compare.judges.panel import Opinion
from compare.judges.protocol import Judgment, Pair, PairKey
from compare.verdict.checks import Health
from compare.verdict.health import control_row, health_of
from compare.verdict.holm import adjusted_outcomes
from compare.verdict.human_correction import LEAST_HUMAN_VOTES, human_corrected
from compare.verdict.intervals import MeanInterval, mean_interval
from compare.verdict.mcnemar import mcnemar
from compare.verdict.non_inferiority import further_values, outcome_of_bounds
from compare.verdict.results import (
    EQUAL,
    Discordance,
    Estimate,
    HumanCorrected,
    JudgeReport,
    ScaleName,
    Sensitivity,
    Side,
    Slice,
    bounds_in_words,
)
from potstill.task.answers import Score
from potstill.task.metrics.label import LabelReport, label_report
from potstill.verdict.outcome import Outcome, Plan
from potstill.verdict.sample_size import pairs_for_non_inferiority

VOTES = "votes"
MOST_TIES = 0.9
"""Share of ties above which the number of votes is not extrapolated."""
FEWEST_CLUSTERS = 2
"""A slice of one cluster has no spread and is left out."""


@dataclass(frozen=True)
class Decided:
    """A pair on which the judge has decided, or that it was given and could not read."""

    pair: Pair
    judgment: Judgment
    cluster: str

    @property
    def is_unread(self) -> bool:
        """Whether the judge has no result for it."""
        return self.judgment.score is None

    @property
    def measurements(self) -> tuple[float, float]:
        """The student's and the teacher's, of a judge that measures; else 0."""
        return self.judgment.student_value or 0.0, self.judgment.teacher_value or 0.0


@dataclass(frozen=True)
class Scale:
    """What a judge's estimate is of, and its test."""

    name: ScaleName
    bounds: tuple[float, float]
    value_of: Callable[[Decided], float | None]
    """None of an unread pair."""
    plan: Plan

    @property
    def threshold(self) -> float:
        """PASS needs the lower bound above it."""
        return EQUAL[self.name] - self.plan.margin

    def interval(self, decided: Sequence[Decided]) -> MeanInterval:
        """Return the mean with its one-sided bounds."""
        values = [self.value_of(one) for one in decided]
        clusters = [one.cluster for one in decided]
        return mean_interval(values, clusters, alpha=self.plan.alpha, bounds=self.bounds)

    def estimate(self, interval: MeanInterval, decided: Sequence[Decided]) -> Estimate:
        """Return the interval as the report has it."""
        ties = sum(self.value_of(one) == EQUAL[self.name] for one in decided)
        means: dict[str, float] = {}
        if self.name == "difference":
            student, teacher = zip(*(one.measurements for one in decided), strict=True)
            means = {"student_mean": fmean(student), "teacher_mean": fmean(teacher)}
        return Estimate(
            scale=self.name,
            value=interval.mean,
            lower=interval.lower,
            upper=interval.upper,
            threshold=self.threshold,
            standard_error=interval.standard_error,
            num_pairs=interval.num_values,
            num_unread=interval.num_unread,
            num_clusters=interval.num_clusters,
            tie_share=ties / interval.num_values,
            **means,
        )


def scale_of(measures: bool, plan: Plan) -> Scale:
    """Return the scale of a judge that measures each answer, or of one that prefers."""
    if measures:
        return Scale("difference", (-1.0, 1.0), _difference, plan)
    return Scale("win rate", (0.0, 1.0), lambda one: one.judgment.score, plan)


def _difference(one: Decided) -> float:
    student, teacher = one.measurements
    return student - teacher


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
        figures |= _by_preference(decided, plan, health, people, figures)
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
        "reason": _reason(outcome, interval, scale, further),
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


def _by_preference(
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


def _reason(outcome: Outcome, interval: MeanInterval, scale: Scale, further: int | None) -> str:
    bounds = bounds_in_words(interval.lower, interval.upper, scale.plan.alpha)
    reason = (
        f"{scale.name} {interval.mean:.3f}, {bounds}; PASS needs the lower bound above "
        f"{scale.threshold:.3f}"
    )
    if interval.num_unread:
        reason += f"; {interval.num_unread} unread pairs count against either outcome"
    if outcome is not Outcome.INCONCLUSIVE:
        return reason
    more = "more than a million" if further is None else f"about {further:,}"
    return f"{reason}; at this rate, a comparison on {more} more prompts would decide"
