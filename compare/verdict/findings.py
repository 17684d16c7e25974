"""From a judge's judgments to its part of the report.

In: opinions, the plan. Out: `JudgeReport`s.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from compare.answers.questions import messages_id
from compare.judges.labels import Labels
from compare.judges.panel import Opinion
from compare.judges.protocol import Answerer, Pair, PairKey
from compare.measurement.covariates import COVARIATE_NAMES, FindCovariates
from compare.verdict.adjustment import adjusted
from compare.verdict.criteria import (
    LEAST_LABELED_PAIRS,
    by_criteria,
    label_scores,
    labels_needed,
)
from compare.verdict.figures import (
    Adjusted,
    Basis,
    Discordance,
    Estimate,
    Slice,
    bounds_in_words,
)
from compare.verdict.following import Line, Standing, counted
from compare.verdict.health import control_row, health_of
from compare.verdict.holm import adjusted_outcomes
from compare.verdict.mcnemar import mcnemar
from compare.verdict.non_inferiority import outcome_of_bounds
from compare.verdict.people import open_scores
from compare.verdict.preference import LEAST_HUMAN_VOTES, by_preference, planned_votes
from compare.verdict.results import JudgeReport
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
    standing: Standing,
    shared_level: float,
    find_covariates: FindCovariates | None,
) -> JudgeReport:
    """Return a judge's part of the report.

    Args:
        people: People's scores of pairs, some of which may be the judge's.
        standing: What earlier comparisons leave to this judge.
        shared_level: Error rate of slices where the prompts follow others.
        find_covariates: None where the mean is not adjusted.
    """
    judged = opinion.judged
    decided = [
        Decided(pair, judgment, cluster_of(pair))
        for pair, judgment in opinion.judged_pairs
        if judgment.score is not None or judgment.votes or judgment.readings
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
        reason=_nothing(opinion) if health.is_valid else health.reason,
        estimate=None,
        checks=health.checks,
        controls=tuple(control_row(control, plan) for control in judged.controls),
        num_failed=len(opinion.judged_pairs) - num_read,
        usage=judged.usage,
    )
    if not health.is_valid or not num_read:
        return report
    is_corrected = opinion.labeled is not None or (
        judged.needs_assay and not judged.measures and judged.kind != VOTES
    )
    tested = replace(plan, alpha=standing.first_level)
    if is_corrected:
        number, needed = _voted(decided, tested, people, opinion.labeled)
        share = number / needed if number else None
        if share is not None:
            tested = replace(plan, alpha=standing.level_of_votes(share))
    scale = scale_of(judged.measures, tested)
    figures = _figures(
        decided,
        scale,
        replace(standing, batches=()) if is_corrected else standing,
        shared_level,
        is_similarity=is_similarity,
        is_corrected=is_corrected,
    )
    if find_covariates is not None:
        figures["adjusted"] = _adjusted(decided, scale, find_covariates)
    if judged.measures:
        figures["problems"] = _problems(decided)
    if opinion.labels is not None:
        figures["labels"] = _labels(decided, opinion.labels)
    if is_corrected:
        if opinion.labeled is None:
            figures |= by_preference(decided, tested, health, people, figures)
        else:
            figures |= by_criteria(decided, scale, opinion.labeled, figures)
        basis: Basis = "corrected" if standing.num_before else "first"
        figures |= {"basis": basis, "counted": (), "share_voted": share}
        if number and figures["outcome"] is Outcome.INCONCLUSIVE:
            missing = f"a first comparison needs about {needed:,} votes or labels"
            figures["reason"] = f"{figures['reason']}; {missing}"
    report = report.model_copy(update=figures)
    return _with_open_slices(report) if is_corrected else report


def _nothing(opinion: Opinion) -> str:
    """Return that nothing was judged, with the most frequent reason if there is one."""
    reasons = Counter(one.failure for _, one in opinion.judged_pairs if one.failure)
    why = [f": {reason} ({number} pairs)" for reason, number in reasons.most_common(1)]
    return "".join(["nothing was judged", *why])


def _figures(
    decided: Sequence[Decided],
    scale: Scale,
    standing: Standing,
    shared_level: float,
    *,
    is_similarity: bool,
    is_corrected: bool,
) -> dict[str, object]:
    values = counted(
        [scale.value_of(one) for one in decided],
        [one.cluster for one in decided],
        [messages_id(one.pair.question.messages) for one in decided],
        scale.bounds,
    )
    line = standing.line(values, scale.bounds, scale.plan.margin)
    interval = scale.interval(decided)
    estimate = scale.estimate(interval, decided)
    basis: Basis = "followed" if standing.follows else "first"
    if standing.follows:
        estimate = _of_line(estimate, line, scale.threshold)
    outcome = outcome_of_bounds(estimate.lower, estimate.upper, scale.threshold)
    further, more = None, ""
    if outcome is Outcome.INCONCLUSIVE and not (is_similarity or is_corrected):
        clusters = line.further_clusters(scale.threshold, scale.plan.power)
        if clusters is not None:  # A cluster may have several prompts.
            num_prompts = len({one.pair.question.prompt_id for one in decided})
            further = math.ceil(clusters * num_prompts / interval.num_clusters)
        number = "more than 100,000" if further is None else f"about {further:,}"
        more = f"; at this rate, {number} further prompts, added to these, would decide"
    level = line.level if standing.follows else scale.plan.alpha
    return {
        "outcome": None if is_similarity else outcome,
        "reason": _reason(estimate, level, basis, decides=not is_similarity) + more,
        "estimate": estimate,
        "basis": basis,
        "level": level,
        "further_prompts": further,
        "counted": standing.new(values),
        "discordance": _discordance(decided),
        "slices": tuple(_slices(decided, scale, shared_level if standing.follows else level)),
    }


def _voted(
    decided: Sequence[Decided], plan: Plan, people: Mapping[PairKey, float], labels: Labels | None
) -> tuple[int, int]:
    """Return the number of votes or labels, 0 if too few decide, and how many a test needs."""
    if labels is None:
        needed, least = planned_votes(plan), LEAST_HUMAN_VOTES
    else:
        needed, least = labels_needed(plan), LEAST_LABELED_PAIRS
        people = label_scores(decided, labels)
    number = sum(score is not None for score in open_scores(decided, people))
    return number if number >= least else 0, needed


def _adjusted(decided: Sequence[Decided], scale: Scale, find: FindCovariates) -> Adjusted | None:
    read = [(one, value) for one in decided if (value := scale.value_of(one)) is not None]
    return adjusted(
        [value for _, value in read],
        [one.pair.question.prompt_id for one, _ in read],
        [one.cluster for one, _ in read],
        find,
        COVARIATE_NAMES,
        scale.bounds,
    )


def _of_line(estimate: Estimate, line: Line, threshold: float) -> Estimate:
    """Return the estimate with the mean and the bounds of all clusters so far."""
    return estimate.model_copy(
        update={
            "value": line.mean,
            "lower": line.lower(threshold),
            "upper": line.upper(threshold),
            "num_clusters": len(line.first) + len(line.later),
        }
    )


def _slices(decided: Sequence[Decided], scale: Scale, level: float) -> list[Slice]:
    """Return the slices that are not all prompts, each at Holm's level among all."""
    scale = replace(scale, plan=replace(scale.plan, alpha=level))
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


def _with_open_slices(report: JudgeReport) -> JudgeReport:
    """Return the report of a judge that people correct, with its slices decided by itself alone.

    People correct all prompts together only. So a slice is INCONCLUSIVE, unless it fails by a judge
    that prefers, whose noise only moves a win rate towards one half.
    """
    fails = Outcome.FAIL if report.kind != "criteria" else None
    slices = (
        one if one.outcome is fails else one.model_copy(update={"outcome": Outcome.INCONCLUSIVE})
        for one in report.slices
    )
    return report.model_copy(update={"slices": tuple(slices)})


def _discordance(decided: Sequence[Decided]) -> Discordance | None:
    """Return McNemar's test where every measurement is 0 or 1."""
    values = [(one.judgment.student_value, one.judgment.teacher_value) for one in decided]
    if not all(value in (0.0, 1.0) for pair in values for value in pair):
        return None
    return mcnemar(*zip(*values, strict=True))


def _problems(decided: Sequence[Decided]) -> dict[Answerer, dict[str, int]]:
    """Return the number of answers by problem, without what follows its first colon."""

    def counted(problems: Iterable[str | None]) -> dict[str, int]:
        heads = Counter(problem.partition(":")[0] for problem in problems if problem)
        return dict(heads.most_common())

    return {
        "student": counted(one.judgment.student_problem for one in decided),
        "teacher": counted(one.judgment.teacher_problem for one in decided),
    }


def _labels(decided: Sequence[Decided], order: Sequence[str]) -> dict[Answerer, LabelReport]:
    judgments = [one.judgment for one in decided]

    def report(found: Iterable[str | None]) -> LabelReport:
        pairs = zip(found, judgments, strict=True)
        scores = (Score(value=0.0, found=one, expected=said.expected) for one, said in pairs)
        return label_report(scores, order)

    return {
        "student": report(one.student_found for one in judgments),
        "teacher": report(one.teacher_found for one in judgments),
    }


def _reason(estimate: Estimate, level: float, basis: Basis, *, decides: bool) -> str:
    bounds = bounds_in_words(estimate.lower, estimate.upper, level, basis, estimate.threshold)
    reason = f"{estimate.scale} {estimate.value:.3f}, {bounds}"
    if not decides:
        return f"{reason}; similarity decides nothing"
    reason += f"; PASS needs the lower bound above {estimate.threshold:.3f}"
    if estimate.num_unread:
        reason += f"; {estimate.num_unread} unread pairs count against either outcome"
    return reason
