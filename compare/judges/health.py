"""Can this judge tell good from bad? What it said, laid out for `potstill.verdict.judge_health`.

In: judged controls and judgments. Out: named checks, and rows of the report. Knows nothing of how
a judge was asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from compare.answers.questions import messages_id
from compare.judges.assay import ControlJudged, Judged
from compare.judges.llm import VALUES
from compare.judges.protocol import Judgment, Pair, Vote
from compare.report.verdict import Control, HealthCheck
from potstill.verdict.intervals import mean_interval
from potstill.verdict.judge_health import HealthLimits, JudgeControls, JudgeHealth, judge_health
from potstill.verdict.outcome import Plan

HALF = 0.5


@dataclass(frozen=True)
class Health:
    """All checks of a judge, and what they amount to."""

    checks: tuple[HealthCheck, ...]
    is_valid: bool

    @property
    def reason(self) -> str:
        """Which checks were failed, or could not be made, in words."""
        told = [
            f"{check.name}: {check.value:.2f} ({check.detail} {check.limit:.2f})"
            for check in self.checks
            if check.passed is False and check.value is not None and check.limit is not None
        ]
        unasked = [check.name for check in self.checks if check.passed is None]
        return "; ".join(told) or f"could not be checked: {', '.join(unasked)}"


@dataclass(frozen=True)
class Humans:
    """What people and the judge said of the same pairs."""

    keys: frozenset[tuple[str, ...]] = frozenset()
    """Which pairs, as `pair_key` names them."""
    judge_scores: list[float] = field(default_factory=list)
    human_scores: list[float] = field(default_factory=list)


def is_sound_so_far(controls: Sequence[ControlJudged], *, measures: bool, plan: Plan) -> bool:
    """Tell whether a judge has passed all checks that can be made of the controls so far."""
    health = judge_health(_laid_out(controls, (), measures, Humans()), plan)
    return all(check.passed for check in health.checks if check.value is not None)


def health_of(judged: Judged, plan: Plan, humans: Humans) -> Health:
    """Return a judge's health; people are only asked whether they prefer a side of the screen."""
    if judged.kind == "votes":
        return _people(judged.judgments or ())
    laid_out = _laid_out(judged.controls, judged.judgments or (), judged.measures, humans)
    return _told(judge_health(laid_out, plan))


def control_row(control: ControlJudged, plan: Plan) -> Control:
    """Return a control as the report shows it."""
    row = Control(
        name=control.name,
        expected=control.expected,
        num_pairs=len(control.clusters),
        num_failed=0,
        win_rate=None,
        lower=None,
        upper=None,
        tie_share=None,
    )
    scores = _scores(control)
    if not scores:
        return row.model_copy(update={"num_failed": len(control.judgments or ())})
    interval = mean_interval(scores, control.decided_clusters, alpha=plan.alpha)
    return row.model_copy(
        update={
            "num_failed": len(control.judgments or ()) - len(scores),
            "win_rate": interval.mean,
            "lower": interval.lower,
            "upper": interval.upper,
            "tie_share": sum(score == HALF for score in scores) / len(scores),
        }
    )


def _laid_out(
    controls: Sequence[ControlJudged],
    judgments: Sequence[Judgment],
    measures: bool,
    humans: Humans,
) -> JudgeControls:
    asked = [control for control in controls if control.judgments is not None]
    said = [one for control in asked for one in control.judgments or ()] + list(judgments)
    ordered = [one for control in asked if control.expected != "tie" for one in _said(control)]
    first, second = _both_orders([*ordered, *judgments], measures)
    same = [control for control in asked if control.expected == "equal"]
    num_calls, num_failed = _calls(said, measures)
    return JudgeControls(
        identical_scores=_identical(asked, measures),
        known_worse_scores={
            control.name: _scores(control) for control in asked if control.expected == "worse"
        },
        shown_first_scores=first,
        shown_second_scores=second,
        same_model_scores=[score for control in same for score in _scores(control)],
        same_model_clusters=[name for control in same for name in control.decided_clusters],
        longer_scores=_longer(asked),
        judge_scores_of_votes=humans.judge_scores,
        human_scores=humans.human_scores,
        num_calls=num_calls,
        num_failed_calls=num_failed,
    )


def _identical(controls: Sequence[ControlJudged], measures: bool) -> list[float]:
    said = [one for control in controls if control.expected == "tie" for one in _said(control)]
    if measures:
        return [one.score for one in said if one.score is not None]
    return [_value(vote) for one in said for vote in one.votes if vote.winner is not None]


def _both_orders(judgments: Sequence[Judgment], measures: bool) -> tuple[list[float], list[float]]:
    """Return the student's scores by its place; a computation gives the same in both."""
    if measures:
        scores = [one.score for one in judgments if one.score is not None]
        return scores, scores
    read = [one.votes for one in judgments if one.score is not None and len(one.votes) > 1]
    by_place = [{vote.student_place: _value(vote) for vote in votes} for votes in read]
    return [places["first"] for places in by_place], [places["second"] for places in by_place]


def _longer(controls: Sequence[ControlJudged]) -> list[float]:
    """Return the longer answer's scores where length makes no answer better."""
    found = []
    for control in controls:
        if control.expected not in {"equal", "not_better"}:
            continue
        for one, (changed, own) in zip(_said(control), control.lengths, strict=True):
            if one.score is not None and changed != own:
                found.append(one.score if changed > own else 1 - one.score)
    return found


def _calls(judgments: Sequence[Judgment], measures: bool) -> tuple[int, int]:
    """Count calls and failed ones; a prompt without a reference asks a computation nothing."""
    if measures:
        return sum(one.score is not None for one in judgments), 0
    votes = [vote for one in judgments for vote in one.votes]
    return len(votes), sum(vote.winner is None for vote in votes)


def _people(judgments: Sequence[Judgment]) -> Health:
    """Return the bias of people's votes towards one side of the screen."""
    limit = HealthLimits().most_position_bias
    decided = [vote for one in judgments for vote in one.votes if vote.winner != "tie"]
    if not decided:
        return Health((_position(None, limit),), is_valid=True)
    left = sum((vote.winner == "student") == (vote.student_place == "first") for vote in decided)
    value = abs(left / len(decided) - HALF)
    return Health((_position(value, limit),), is_valid=value <= limit)


def _position(value: float | None, limit: float) -> HealthCheck:
    return HealthCheck(
        name="position",
        passed=None if value is None else value <= limit,
        value=value,
        limit=limit,
        detail="distance from one half of the votes for what stands left, at most",
    )


def _told(health: JudgeHealth) -> Health:
    checks = tuple(
        HealthCheck(
            name=check.name,
            passed=check.passed if check.value is not None else None,
            value=check.value,
            limit=check.limit,
            detail=check.meaning,
        )
        for check in health.checks
    )
    return Health(checks, health.valid)


def _said(control: ControlJudged) -> Sequence[Judgment]:
    return control.judgments or ()


def _scores(control: ControlJudged) -> list[float]:
    return [one.score for one in _said(control) if one.score is not None]


def _value(vote: Vote) -> float:
    return VALUES[vote.winner or "tie"]


def pair_key(pair: Pair) -> tuple[str, ...]:
    """Return what identifies a pair of answers wherever it was shown."""
    return (messages_id(pair.question.messages), pair.student, pair.teacher)


def human_votes(
    judge_scores: Mapping[tuple[str, ...], float], people: Mapping[tuple[str, ...], float]
) -> Humans:
    """Return both scores of the pairs that the judge and people have decided."""
    common = sorted(judge_scores.keys() & people.keys())
    return Humans(
        keys=frozenset(common),
        judge_scores=[judge_scores[key] for key in common],
        human_scores=[people[key] for key in common],
    )
