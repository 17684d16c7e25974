"""From a judge's judgments to its part of the report.

In: opinions, the plan. Out: `JudgeReport`s.

The estimate of a judge that prefers is the win rate with ties one half; that of a judge that
measures each answer is the mean difference. Both are means of bounded values in clusters, tested
against a threshold.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from compare.judges.panel import Opinion
from compare.judges.protocol import Judgment, Pair
from compare.verdict.health import Humans, control_row, health_of
from compare.verdict.holm import adjusted_outcomes
from compare.verdict.human_correction import LEAST_HUMAN_VOTES, human_corrected_win_rate
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
    Side,
    Slice,
    bounds_in_words,
)
from potstill.task.answers import Score
from potstill.task.metrics.label import LabelReport, label_report
from potstill.verdict.outcome import Outcome, Plan

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
    humans: Humans,
) -> JudgeReport:
    """Return a judge's part of the report.

    Args:
        humans: People's scores of the same pairs.
    """
    judged = opinion.judged
    decided = [
        Decided(pair, judgment, cluster_of(pair))
        for pair, judgment in opinion.judged_pairs
        if judgment.score is not None or judgment.votes
    ]
    num_read = sum(not one.is_unread for one in decided)
    is_similarity = judged.claim == "similarity"
    health = health_of(judged, plan, humans)
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
    if not judged.measures:
        figures["human_corrected"] = _human_corrected(decided, plan, humans)
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


def _human_corrected(
    decided: Sequence[Decided], plan: Plan, humans: Humans
) -> HumanCorrected | None:
    """Return the win rate by people's preference; None with too few votes on judged pairs."""
    without = [
        one.judgment.score
        for one in decided
        if one.judgment.score is not None and one.pair.key not in humans.keys
    ]
    if len(humans.human_scores) < LEAST_HUMAN_VOTES or len(without) < FEWEST_CLUSTERS:
        return None
    corrected = human_corrected_win_rate(
        without, humans.judge_scores, humans.human_scores, alpha=plan.alpha
    )
    return HumanCorrected(
        rate=corrected.rate,
        lower=corrected.lower,
        upper=corrected.upper,
        num_human_votes=corrected.num_human_votes,
        num_judged=corrected.num_judged,
        outcome=outcome_of_bounds(corrected.lower, corrected.upper, plan.win_rate_threshold),
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
    return f"{reason}; at this rate, {more} further prompts would decide"
