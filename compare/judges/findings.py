"""From what a judge has said to what the report says of it.

In: opinions, the plan. Out: `JudgeReport`s. Pure: asks nobody, reads nothing.

Of a judge that prefers, the figure is the win rate with ties one half; of one that measures each
answer, the mean difference. Both are means of bounded values in clusters, against a threshold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compare.judges.health import Health, Humans, control_row, health_of, pair_key
from compare.judges.panel import Opinion
from compare.judges.protocol import Judgment, Pair
from compare.report.verdict import (
    EQUAL,
    Discordance,
    Estimate,
    HumanCorrected,
    JudgeReport,
    ScaleName,
    Slice,
)
from potstill.verdict.holm import adjusted_outcomes
from potstill.verdict.intervals import MeanInterval, Method, mean_interval
from potstill.verdict.judge_accuracy import LEAST_HUMAN_VOTES, human_corrected_win_rate
from potstill.verdict.mcnemar import mcnemar
from potstill.verdict.non_inferiority import further_values, outcome_of_bounds
from potstill.verdict.outcome import Outcome, Plan

FEWEST_CLUSTERS = 2
"""A slice of one observation has no spread and is left out."""


@dataclass(frozen=True)
class Scale:
    """What a judge's figure means."""

    name: ScaleName
    bounds: tuple[float, float]
    values_of: Callable[[Judgment], float]

    @property
    def equal(self) -> float:
        """What equal models have."""
        return EQUAL[self.name]

    def interval(
        self, decided: Sequence[Decided], alpha: float, method: Method = "t"
    ) -> MeanInterval:
        """Return the mean with its one-sided bounds."""
        values = [self.values_of(one.judgment) for one in decided]
        clusters = [one.cluster for one in decided]
        return mean_interval(values, clusters, alpha=alpha, method=method, bounds=self.bounds)


@dataclass(frozen=True)
class Decided:
    """A pair on which the judge has decided."""

    pair: Pair
    judgment: Judgment
    cluster: str


WIN_RATE = Scale("win rate", (0.0, 1.0), lambda said: said.score or 0.0)
DIFFERENCE = Scale(
    "difference",
    (-1.0, 1.0),
    lambda said: (said.student_value or 0.0) - (said.teacher_value or 0.0),
)


def report_on(
    opinion: Opinion,
    plan: Plan,
    cluster_of: Callable[[Pair], str],
    *,
    decides: bool,
    humans: Humans,
) -> JudgeReport:
    """Return all that the report says of one judge.

    Args:
        humans: What people said of the same pairs.
    """
    judged = opinion.judged
    said = judged.judgments or ()
    both = list(zip(opinion.pairs, said, strict=bool(said)))
    decided = [
        Decided(pair, judgment, cluster_of(pair))
        for pair, judgment in both
        if judgment.score is not None
    ]
    decides_nothing = judged.claim == "similarity"
    health = Health((), is_valid=True) if decides_nothing else health_of(judged, plan, humans)
    report = JudgeReport(
        name=judged.name,
        kind=judged.kind,
        claim=judged.claim,
        model=judged.model,
        decides=decides,
        outcome=None if decides_nothing else Outcome.INVALID_JUDGE,
        reason="nothing was judged" if health.is_valid else health.reason,
        estimate=None,
        checks=health.checks,
        controls=tuple(control_row(control, plan) for control in judged.controls),
        num_failed=len(said) - len(decided),
        usage=judged.usage,
    )
    if not health.is_valid or not decided:
        return report
    scale = DIFFERENCE if judged.measures else WIN_RATE
    figures = _figures(decided, scale, plan, decides_nothing)
    if not judged.measures:
        figures["human_corrected"] = _human_corrected(decided, plan, humans)
    return report.model_copy(update=figures)


def _figures(
    decided: Sequence[Decided], scale: Scale, plan: Plan, is_similarity: bool
) -> dict[str, object]:
    interval = scale.interval(decided, plan.alpha)
    threshold = scale.equal - plan.margin
    outcome = outcome_of_bounds(interval.lower, interval.upper, threshold)
    further = further_values(interval, threshold, plan)
    if further is not None:  # Several answers to one prompt are several values.
        num_prompts = len({one.pair.question.prompt_id for one in decided})
        further = math.ceil(further * num_prompts / len(decided))
    return {
        "outcome": None if is_similarity else outcome,
        "reason": _because(outcome, interval, threshold, scale, further),
        "estimate": _estimate(interval, scale, threshold, decided),
        "bootstrap": _estimate(
            scale.interval(decided, plan.alpha, "bca"), scale, threshold, decided
        ),
        "further_prompts": further if outcome is Outcome.INCONCLUSIVE else None,
        "discordance": _discordance(decided),
        "slices": tuple(_slices(decided, scale, plan)),
    }


def _estimate(
    interval: MeanInterval, scale: Scale, threshold: float, decided: Sequence[Decided]
) -> Estimate:
    measured = scale is DIFFERENCE
    values = [(one.judgment.student_value, one.judgment.teacher_value) for one in decided]
    ties = sum(scale.values_of(one.judgment) == scale.equal for one in decided)
    return Estimate(
        scale=scale.name,
        value=interval.mean,
        lower=interval.lower,
        upper=interval.upper,
        threshold=threshold,
        standard_error=interval.standard_error,
        num_pairs=interval.num_values,
        num_clusters=interval.num_clusters,
        tie_share=ties / len(decided),
        student_mean=_mean([student for student, _ in values]) if measured else None,
        teacher_mean=_mean([teacher for _, teacher in values]) if measured else None,
    )


def _slices(decided: Sequence[Decided], scale: Scale, plan: Plan) -> list[Slice]:
    """Return the slices that leave something out, each at Holm's level among all."""
    groups: dict[tuple[str, str], list[Decided]] = {}
    for one in decided:
        for key, value in one.pair.question.slices.items():
            groups.setdefault((key, value), []).append(one)
    groups = {
        name: group
        for name, group in groups.items()
        if len(group) < len(decided) and len({one.cluster for one in group}) >= FEWEST_CLUSTERS
    }
    if not groups:
        return []
    threshold = scale.equal - plan.margin
    intervals = [scale.interval(group, plan.alpha) for group in groups.values()]
    found = adjusted_outcomes(intervals, threshold, plan.alpha)
    return [
        Slice(
            key=key,
            value=value,
            estimate=_estimate(interval, scale, threshold, group),
            p_adjusted=adjusted.p_not_inferior,
            outcome=adjusted.outcome,
        )
        for ((key, value), group), interval, adjusted in zip(
            groups.items(), intervals, found, strict=True
        )
    ]


def _discordance(decided: Sequence[Decided]) -> Discordance | None:
    """Return McNemar's test where every figure is right or wrong."""
    values = [(one.judgment.student_value, one.judgment.teacher_value) for one in decided]
    if not all(value in (0.0, 1.0) for pair in values for value in pair):
        return None
    test = mcnemar(*zip(*values, strict=True))
    return Discordance(
        only_student=test.num_only_student,
        only_teacher=test.num_only_teacher,
        p_exact=test.p_exact,
    )


def _human_corrected(
    decided: Sequence[Decided], plan: Plan, humans: Humans
) -> HumanCorrected | None:
    """Return the win rate by people's preference; None with too few votes on judged pairs."""
    without = [
        one.judgment.score
        for one in decided
        if one.judgment.score is not None and pair_key(one.pair) not in humans.keys
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


def _because(
    outcome: Outcome, interval: MeanInterval, threshold: float, scale: Scale, further: int | None
) -> str:
    figure = f"{scale.name} {interval.mean:.3f}, surely between "
    figure += f"{interval.lower:.3f} and {interval.upper:.3f}; to pass it must surely exceed "
    figure += f"{threshold:.3f}"
    if outcome is not Outcome.INCONCLUSIVE:
        return figure
    more = "more than a million" if further is None else f"about {further:,}"
    return f"{figure}; {more} further prompts are needed at this rate"


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known)
