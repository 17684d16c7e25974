"""May this judge be believed? Its answers to questions whose answer is known.

In: scores of controls: identical answers, answers known to be worse, one model against itself,
both orders of the same pair, human votes. Out: named checks and whether the judge is valid. Knows
nothing of how a judge is asked.

A bad judge makes everything look equal, and equal passes. So, as in a clinical non-inferiority
trial, what cannot tell a known difference decides nothing (assay sensitivity, ICH E10, 1.5).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeGuard

import numpy as np
from numpy.typing import ArrayLike

from potstill.errors import PotstillError
from potstill.verdict.intervals import Floats, checked_values, mean_interval
from potstill.verdict.judge_accuracy import accuracy_needed
from potstill.verdict.outcome import Outcome, Plan


@dataclass(frozen=True)
class JudgeControls:
    """What a judge said where the answer is known; None or empty where it was not asked.

    Without identical answers, known worse ones and both orders no judge is valid.
    """

    identical_scores: ArrayLike | None = None
    """One for each call, not averaged over orders: a judge that always says A ties on average."""
    known_worse_scores: Mapping[str, ArrayLike] = field(default_factory=dict)
    """By kind (untrained, truncated, shuffled, padded): the score of the answer that is worse, one
    for each pair, averaged over both orders."""
    shown_first_scores: ArrayLike | None = None
    """The same model's score in each pair when its answer is shown first ..."""
    shown_second_scores: ArrayLike | None = None
    """... and when it is shown second, in the same order of pairs."""
    same_model_scores: ArrayLike | None = None
    """A/A: the first of two samples of one model, one score for each pair."""
    same_model_clusters: Sequence[Hashable] | None = None
    longer_scores: ArrayLike | None = None
    """The longer answer's score in pairs that do not differ in quality, such as those of A/A."""
    judge_scores_of_votes: ArrayLike | None = None
    """The judge's score in each pair that a person voted on ..."""
    human_scores: ArrayLike | None = None
    """... and the person's."""
    num_calls: int = 0
    num_failed_calls: int = 0
    """Calls that ended in an error or in no verdict that could be read."""


@dataclass(frozen=True)
class HealthLimits:
    """How bad a judge may be."""

    least_identical_ties: float = 0.8
    """Share of calls with identical answers that are ties. A sound judge sees all; a coin with
    ties a third."""
    least_swap_consistency: float = 0.6
    """Share of pairs with the same verdict in both orders. A coin without ties has ½, GPT-4 had
    0.65 on MT-Bench (Zheng et al. 2023, table 2)."""
    most_position_bias: float = 0.2
    """Distance of the score of what is shown first from ½."""
    most_length_preference: float = 0.6
    """Win rate of the longer of two answers alike that must not be exceeded for certain."""
    most_failed_calls: float = 0.05
    """Share of calls; failures are no ties, and leaving out more would choose the pairs."""


@dataclass(frozen=True)
class HealthCheck:
    """One question to the judge's answers."""

    name: str
    passed: bool
    value: float | None
    """What was found; None where nothing was asked."""
    limit: float
    meaning: str
    """What value and limit are, for the reader of a report."""


@dataclass(frozen=True)
class JudgeHealth:
    """All checks of one judge."""

    checks: tuple[HealthCheck, ...]

    @property
    def valid(self) -> bool:
        """Whether all checks were passed."""
        return all(check.passed for check in self.checks)

    def guard(self, outcome: Outcome) -> Outcome:
        """Return the outcome, or INVALID_JUDGE where the judge is not to be believed."""
        return outcome if self.valid else Outcome.INVALID_JUDGE


def judge_health(
    controls: JudgeControls, plan: Plan, limits: HealthLimits = HealthLimits()
) -> JudgeHealth:
    """Check a judge against its controls.

    Known worse answers must be shown to be inferior, by the very test that decides of the student.
    Checks of a bias (A/A, length, human votes) fail where the bias is beyond its limit for certain:
    to demand proof of its absence would refuse 40 % of sound judges at 619 pairs of A/A.

    Raises:
        PotstillError: A score is out of bounds, or lists that belong together differ in length.
    """
    checks = [
        _failed_calls(controls, limits),
        _identical(controls, limits),
        *_known_worse(controls, plan),
        *_both_orders(controls, limits),
        *_same_model(controls, plan),
        *_length(controls, plan, limits),
        *_human_votes(controls, plan),
    ]
    return JudgeHealth(tuple(checks))


def _failed_calls(controls: JudgeControls, limits: HealthLimits) -> HealthCheck:
    value = controls.num_failed_calls / controls.num_calls if controls.num_calls else None
    limit = limits.most_failed_calls
    passed = value is not None and value <= limit
    return HealthCheck(
        "readable", passed, value, limit, "share of calls without a verdict, at most"
    )


def _identical(controls: JudgeControls, limits: HealthLimits) -> HealthCheck:
    limit, value = limits.least_identical_ties, None
    if _given(controls.identical_scores):
        value = float((checked_values(controls.identical_scores) == 0.5).mean())
    passed = value is not None and value >= limit
    meaning = "share of readings that call identical answers equal, at least"
    return HealthCheck("identical answers", passed, value, limit, meaning)


def _known_worse(controls: JudgeControls, plan: Plan) -> list[HealthCheck]:
    limit = plan.win_rate_threshold
    meaning = "upper bound of the win rate of answers known to be worse, below"
    checks = []
    for kind, scores in controls.known_worse_scores.items():
        value = None
        if _given(scores):
            value = mean_interval(scores, alpha=plan.alpha).upper
        passed = value is not None and value < limit
        checks.append(HealthCheck(f"known worse: {kind}", passed, value, limit, meaning))
    return checks or [HealthCheck("known worse", False, None, limit, meaning)]


def _both_orders(controls: JudgeControls, limits: HealthLimits) -> list[HealthCheck]:
    consistency = bias = None
    if _given(controls.shown_first_scores) and _given(controls.shown_second_scores):
        first_N = checked_values(controls.shown_first_scores)
        second_N = _paired(controls.shown_second_scores, first_N)
        consistency = float((first_N == second_N).mean())
        bias = float(abs((first_N - second_N).mean() / 2))
    return [
        HealthCheck(
            "swap consistency",
            consistency is not None and consistency >= limits.least_swap_consistency,
            consistency,
            limits.least_swap_consistency,
            "share of pairs with the same verdict in both orders, at least",
        ),
        HealthCheck(
            "position",
            bias is not None and bias <= limits.most_position_bias,
            bias,
            limits.most_position_bias,
            "distance from one half of the score of what is shown first, at most",
        ),
    ]


def _same_model(controls: JudgeControls, plan: Plan) -> list[HealthCheck]:
    if not _given(controls.same_model_scores):
        return []
    interval = mean_interval(
        controls.same_model_scores, controls.same_model_clusters, alpha=plan.alpha
    )
    value = max(0.0, interval.lower - 0.5, 0.5 - interval.upper)
    meaning = "least distance from one half of a model's win rate against itself, at most"
    return [HealthCheck("A/A", value <= plan.margin, value, plan.margin, meaning)]


def _length(controls: JudgeControls, plan: Plan, limits: HealthLimits) -> list[HealthCheck]:
    if not _given(controls.longer_scores):
        return []
    value = mean_interval(controls.longer_scores, alpha=plan.alpha).lower
    limit = limits.most_length_preference
    meaning = "lower bound of the win rate of the longer of two answers alike, at most"
    return [HealthCheck("length", value <= limit, value, limit, meaning)]


def _human_votes(controls: JudgeControls, plan: Plan) -> list[HealthCheck]:
    """Compare with people's votes that are no ties; a judge's tie is half an agreement."""
    if not (_given(controls.human_scores) and _given(controls.judge_scores_of_votes)):
        return []
    human_N = checked_values(controls.human_scores)
    judge_N = _paired(controls.judge_scores_of_votes, human_N)
    decided_N = human_N != 0.5
    if not decided_N.any():
        return []
    agreement_N = (1 + np.sign(human_N - 0.5) * np.sign(judge_N - 0.5))[decided_N] / 2
    value, limit = mean_interval(agreement_N, alpha=plan.alpha).upper, accuracy_needed(plan)
    meaning = "upper bound of the agreement with people's votes, at least"
    return [HealthCheck("human votes", value >= limit, value, limit, meaning)]


def _given(scores: ArrayLike | None) -> TypeGuard[ArrayLike]:
    return scores is not None and np.size(scores) > 0


def _paired(scores: ArrayLike, others_N: Floats) -> Floats:
    """Return the scores, of which there must be as many as of the others."""
    scores_N = checked_values(scores)
    if len(scores_N) != len(others_N):
        raise PotstillError(
            "Scores that belong together differ in number.",
            where="controls of the judge",
            expected=len(others_N),
            found=len(scores_N),
        )
    return scores_N
