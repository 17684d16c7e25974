"""Whether a judge can distinguish good from bad: its judgments, laid out for `checks`.

In: judged controls and judgments. Out: `Health`, and rows of the report.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from compare.judges.assay import ControlJudged, Judged
from compare.judges.llm import VALUES
from compare.judges.protocol import Judgment, Vote
from compare.verdict.checks import Health, JudgeControls, Readings, judge_health, position_check
from compare.verdict.figures import Control
from compare.verdict.intervals import mean_interval
from potstill.verdict.outcome import Plan

HALF = 0.5


def is_sound_so_far(controls: Sequence[ControlJudged], *, measures: bool, plan: Plan) -> bool:
    """Return whether a judge has passed all checks that the controls so far allow."""
    health = judge_health(_laid_out(controls, (), measures), plan)
    return all(check.passed is not False for check in health.checks)


def health_of(judged: Judged, plan: Plan) -> Health:
    """Return a judge's health; of people's votes, only the bias towards a side is checked."""
    if judged.kind == "votes":
        return _people(judged.judgments or (), plan)
    if not judged.needs_assay or judged.claim == "similarity":
        return Health(())
    laid_out = _laid_out(judged.controls, judged.judgments or (), judged.measures)
    return judge_health(laid_out, plan)


def control_row(control: ControlJudged, plan: Plan) -> Control:
    """Return a control as the report shows it."""
    scores = _scores(control.said)
    row = Control(
        name=control.name,
        expected=control.expected,
        num_pairs=len(control.clusters),
        num_failed=len(control.said) - len(scores),
    )
    if not scores:
        return row
    interval = mean_interval(scores, control.decided_clusters, alpha=plan.alpha)
    return row.model_copy(
        update={
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
) -> JudgeControls:
    said = [one for control in controls for one in control.said]
    ordered = [one for control in controls if control.expected != "tie" for one in control.said]
    same = [control for control in controls if control.expected == "equal"]
    worse = [
        control
        for control in controls
        if control.expected == "worse" and control.judgments is not None
    ]
    are_read = not measures and any(one.votes for one in judgments)
    return JudgeControls(
        identical_scores=_identical(controls, measures),
        known_worse_scores={control.name: _scores(control.said) for control in worse},
        known_worse_clusters={control.name: control.decided_clusters for control in worse},
        graded=frozenset(control.name for control in worse if control.graded),
        measures=measures,
        of_controls=_readings(said, ordered, measures),
        of_pairs=_readings(judgments, judgments, measures) if are_read else None,
        same_model_scores=[score for control in same for score in _scores(control.said)],
        same_model_clusters=[name for control in same for name in control.decided_clusters],
        longer_scores=_longer(controls),
    )


def _readings(called: Sequence[Judgment], ordered: Sequence[Judgment], measures: bool) -> Readings:
    return Readings(*_both_orders(ordered, measures), *_calls(called, measures))


def _identical(controls: Sequence[ControlJudged], measures: bool) -> list[float]:
    said = [one for control in controls if control.expected == "tie" for one in control.said]
    if measures:
        return _scores(said)
    return [_value(vote) for one in said for vote in one.votes if vote.winner is not None]


def _both_orders(judgments: Sequence[Judgment], measures: bool) -> tuple[list[float], list[float]]:
    """Return the student's scores by its place; a computation gives the same in both."""
    if measures:
        scores = _scores(judgments)
        return scores, scores
    read = [one.votes for one in judgments if one.score is not None and len(one.votes) > 1]
    by_place = [{vote.student_place: _value(vote) for vote in votes} for votes in read]
    return [places["first"] for places in by_place], [places["second"] for places in by_place]


def _longer(controls: Sequence[ControlJudged]) -> list[float]:
    """Return the longer answer's scores where length makes no answer better."""
    return [
        one.score if changed > own else 1 - one.score
        for control in controls
        if control.expected in {"equal", "not_better"}
        for one, (changed, own) in zip(control.said, control.lengths, strict=bool(control.said))
        if one.score is not None and changed != own
    ]


def _calls(judgments: Sequence[Judgment], measures: bool) -> tuple[int, int]:
    """Count calls and failed ones; for a computation, prompts without a reference are no calls."""
    if measures:
        return len(_scores(judgments)), 0
    votes = [vote for one in judgments for vote in one.votes]
    return len(votes), sum(vote.winner is None for vote in votes)


def _people(judgments: Sequence[Judgment], plan: Plan) -> Health:
    """Return the bias of people's votes towards one side of the screen."""
    decided = [vote for one in judgments for vote in one.votes if vote.winner != "tie"]
    if not decided:
        return Health(())
    left = [(vote.winner == "student") == (vote.student_place == "first") for vote in decided]
    detail = "the share of votes for the answer on the left"
    return Health((position_check(np.array(left, np.float64), detail, plan),))


def _scores(judgments: Iterable[Judgment]) -> list[float]:
    return [one.score for one in judgments if one.score is not None]


def _value(vote: Vote) -> float:
    return VALUES[vote.winner or "tie"]
