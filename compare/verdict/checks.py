"""The checks of a judge, on judgments whose right result is known.

In: scores of controls: identical answers, answers known to be worse, one model against itself,
both orders of the same pair, human votes. Out: `Health`.

A bad judge makes everything look equal, and equal passes. So, as in a clinical non-inferiority
trial, a judge that cannot see a known difference decides nothing (assay sensitivity, ICH E10, 1.5).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeGuard

import numpy as np

from compare.verdict.intervals import mean_interval
from compare.verdict.results import HealthCheck
from potstill.errors import PotstillError
from potstill.verdict.outcome import Plan
from potstill.verdict.scores import Floats, checked_values

Scores = Sequence[float] | Floats

LEAST_IDENTICAL_TIES = 0.8
"""Share of readings of identical answers that are ties. A sound judge ties on all, a coin with ties
on a third."""
LEAST_SWAP_CONSISTENCY = 0.6
"""Share of pairs with the same verdict in both orders. A coin without ties has ½, GPT-4 had 0.65 on
MT-Bench (Zheng et al. 2023, table 2)."""
MOST_POSITION_BIAS = 0.2
"""Distance from ½ of the score of the answer shown first."""
MOST_LENGTH_PREFERENCE = 0.6
"""Lower bound of the win rate of the longer of two equal answers."""
MOST_FAILED_CALLS = 0.05
"""Share of calls. Failures are not ties, and leaving out more would select the pairs."""
LEAST_HUMAN_AGREEMENT = 0.75
"""Upper bound of the agreement with people's votes. As seen by a judge that is right with
probability a, a student at a win rate of ½ - d is at ½ - d (2a - 1): with a = ¾, one that is worse
by twice the margin is on the threshold. Source: Rogan & Gladen 1978, Am. J. Epidemiol. 107:71, with
sensitivity and specificity both a."""


@dataclass(frozen=True)
class JudgeControls:
    """A judge's scores where the right result is known; None or empty where it was not asked.

    Without identical answers, known worse ones and both orders no judge is valid.
    """

    identical_scores: Scores | None = None
    """One for each call, not averaged over orders: a judge that always says A ties on average."""
    known_worse_scores: Mapping[str, Scores] = field(default_factory=dict)
    """By kind (untrained, truncated, shuffled, …): the worse answer's score, one per pair,
    averaged over both orders."""
    shown_first_scores: Scores | None = None
    """The same model's score in each pair when its answer is shown first."""
    shown_second_scores: Scores | None = None
    """The same when it is shown second, in the same order of pairs."""
    same_model_scores: Scores | None = None
    """A/A: the first of two samples of one model, one score for each pair."""
    same_model_clusters: Sequence[Hashable] | None = None
    longer_scores: Scores | None = None
    """The longer answer's score in pairs of equal quality, such as those of A/A."""
    judge_scores_of_votes: Scores | None = None
    """The judge's score in each pair that a person voted on."""
    human_scores: Scores | None = None
    """The person's, in the same order of pairs."""
    num_calls: int = 0
    num_failed_calls: int = 0
    """Calls that ended in an error or without a readable verdict."""


@dataclass(frozen=True)
class Health:
    """All checks of one judge."""

    checks: tuple[HealthCheck, ...]

    @property
    def is_valid(self) -> bool:
        """Whether all checks were made and passed."""
        return all(check.passed for check in self.checks)

    @property
    def reason(self) -> str:
        """The failed checks, or else those that could not be made, in words."""
        failed = [
            f"{check.name}: {check.detail} is {check.value:.2f}, must be {check.relation} "
            f"{check.limit:.2f}"
            for check in self.checks
            if check.passed is False
        ]
        missing = [check.name for check in self.checks if check.passed is None]
        return "; ".join(failed) or f"could not be checked: {', '.join(missing)}"


def judge_health(controls: JudgeControls, plan: Plan) -> Health:
    """Check a judge against its controls.

    Known worse answers must be shown to be inferior, by the test that decides on the student.
    Checks of a bias (A/A, length, human votes) fail where the interval is beyond the limit: to
    demand proof of its absence would refuse 40 % of sound judges at 619 pairs of A/A.

    Raises:
        PotstillError: A score is out of bounds, or paired lists differ in length.
    """
    checks = [
        _failed_calls(controls),
        _identical(controls),
        *_known_worse(controls, plan),
        *_both_orders(controls),
        *_same_model(controls, plan),
        *_length(controls, plan),
        *_human_votes(controls, plan),
    ]
    return Health(tuple(checks))


def position_check(value: float | None, detail: str) -> HealthCheck:
    """Return the check of a preference for one place."""
    return HealthCheck(
        name="position",
        value=value,
        relation="at most",
        limit=MOST_POSITION_BIAS,
        detail=detail,
    )


def _failed_calls(controls: JudgeControls) -> HealthCheck:
    value = controls.num_failed_calls / controls.num_calls if controls.num_calls else None
    return HealthCheck(
        name="readable",
        value=value,
        relation="at most",
        limit=MOST_FAILED_CALLS,
        detail="share of calls without a verdict",
    )


def _identical(controls: JudgeControls) -> HealthCheck:
    value = None
    if _given(controls.identical_scores):
        value = float((checked_values(controls.identical_scores) == 0.5).mean())
    return HealthCheck(
        name="identical answers",
        value=value,
        relation="at least",
        limit=LEAST_IDENTICAL_TIES,
        detail="share of readings that call identical answers equal",
    )


def _known_worse(controls: JudgeControls, plan: Plan) -> list[HealthCheck]:
    def check(name: str, scores: Scores | None) -> HealthCheck:
        value = mean_interval(scores, alpha=plan.alpha).upper if _given(scores) else None
        return HealthCheck(
            name=name,
            value=value,
            relation="below",
            limit=plan.win_rate_threshold,
            detail="upper bound of the win rate of answers known to be worse",
        )

    found = controls.known_worse_scores.items()
    return [check(f"known worse: {kind}", scores) for kind, scores in found] or [
        check("known worse", None)
    ]


def _both_orders(controls: JudgeControls) -> list[HealthCheck]:
    consistency = bias = None
    if _given(controls.shown_first_scores) and _given(controls.shown_second_scores):
        first_N = checked_values(controls.shown_first_scores)
        second_N = _paired(controls.shown_second_scores, first_N)
        consistency = float((first_N == second_N).mean())
        bias = float(abs((first_N - second_N).mean() / 2))
    swaps = HealthCheck(
        name="swap consistency",
        value=consistency,
        relation="at least",
        limit=LEAST_SWAP_CONSISTENCY,
        detail="share of pairs with the same verdict in both orders",
    )
    detail = "distance from one half of the score of the answer shown first"
    return [swaps, position_check(bias, detail)]


def _same_model(controls: JudgeControls, plan: Plan) -> list[HealthCheck]:
    if not _given(controls.same_model_scores):
        return []
    interval = mean_interval(
        controls.same_model_scores, controls.same_model_clusters, alpha=plan.alpha
    )
    return [
        HealthCheck(
            name="A/A",
            value=max(0.0, interval.lower - 0.5, 0.5 - interval.upper),
            relation="at most",
            limit=plan.margin,
            detail="distance of the interval of a model's win rate against itself from one half",
        )
    ]


def _length(controls: JudgeControls, plan: Plan) -> list[HealthCheck]:
    if not _given(controls.longer_scores):
        return []
    return [
        HealthCheck(
            name="length",
            value=mean_interval(controls.longer_scores, alpha=plan.alpha).lower,
            relation="at most",
            limit=MOST_LENGTH_PREFERENCE,
            detail="lower bound of the win rate of the longer of two equal answers",
        )
    ]


def _human_votes(controls: JudgeControls, plan: Plan) -> list[HealthCheck]:
    """Compare with people's votes that are not ties; a judge's tie is half an agreement."""
    if not (_given(controls.human_scores) and _given(controls.judge_scores_of_votes)):
        return []
    human_N = checked_values(controls.human_scores)
    judge_N = _paired(controls.judge_scores_of_votes, human_N)
    decided_N = human_N != 0.5
    if not decided_N.any():
        return []
    agreement_N = (1 + np.sign(human_N - 0.5) * np.sign(judge_N - 0.5))[decided_N] / 2
    return [
        HealthCheck(
            name="human votes",
            value=mean_interval(agreement_N, alpha=plan.alpha).upper,
            relation="at least",
            limit=LEAST_HUMAN_AGREEMENT,
            detail="upper bound of the agreement with people's votes",
        )
    ]


def _given(scores: Scores | None) -> TypeGuard[Scores]:
    return scores is not None and len(scores) > 0


def _paired(scores: Scores, others_N: Floats) -> Floats:
    """Return the scores; there must be as many as of the others."""
    scores_N = checked_values(scores)
    if len(scores_N) != len(others_N):
        raise PotstillError(
            "paired scores differ in number",
            where="controls of the judge",
            expected=len(others_N),
            found=len(scores_N),
        )
    return scores_N
