"""The checks of a judge, on judgments whose right result is known.

In: scores of controls: identical answers, answers known to be worse, one model against itself,
both orders of the same pair. Out: `Health`, `Sensitivity`.

A bad judge makes everything look equal, and equal passes. So, as in a clinical non-inferiority
trial, a judge that cannot see a known difference decides nothing (assay sensitivity, ICH E10, 1.5).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from compare.verdict.figures import GradedSet, HealthCheck, Sensitivity
from compare.verdict.intervals import mean_interval
from potstill.errors import PotstillError
from potstill.verdict.outcome import Plan
from potstill.verdict.scores import Floats, checked_values

Scores = Sequence[float]

LEAST_IDENTICAL_TIES = 0.7
"""Share of readings of identical answers that are ties. A sound judge ties on all, a coin with ties
on a third; one that is right in 80% of readings is far enough above the limit."""
LEAST_SWAP_CONSISTENCY = 0.6
"""Share of pairs with the same verdict in both orders. A coin without ties has ½, GPT-4 had 0.65 on
MT-Bench (Zheng et al. 2023, table 2)."""
MOST_POSITION_BIAS = 0.2
"""Distance from ½ of the score of the answer shown first."""
MOST_LENGTH_PREFERENCE = 0.6
"""Lower bound of the win rate of the longer of two equal answers."""
MOST_FAILED_CALLS = 0.05
"""Share of calls. Pairs that were not read widen the interval; a judge that leaves out more is not
a judge of these answers."""
GRADED_RATES = (0.45, 0.4)
"""True win rates of the sets of graded controls: a student at the default margin, and one that is
clearly worse."""
LEAST_SENSITIVITY = 0.1
"""Lower bound of the sensitivity: with less, a tenth of the margin is all that the judge sees."""
MOST_KNOWN_WORSE = 0.4
"""Win rate of answers of one kind that are known to be worse, for a preference judge; it is ½ for
one that measures, whose differences are small. A judge that is right in 80% of pairs is above it
on 24 pairs with a probability of 0.01, a coin below it with 0.15; all kinds together must be shown
to be worse."""


@dataclass(frozen=True)
class Readings:
    """Both orders of the same pairs, and the calls that they took."""

    shown_first_scores: Scores = ()
    """The same model's score in each pair when its answer is shown first."""
    shown_second_scores: Scores = ()
    """The same when it is shown second, in the same order of pairs."""
    num_calls: int = 0
    num_failed_calls: int = 0
    """Calls that ended in an error or without a readable verdict."""


@dataclass(frozen=True)
class JudgeControls:
    """A judge's scores where the right result is known; empty where it was not asked.

    Without identical answers, known worse ones and both orders no judge is valid.
    """

    identical_scores: Scores = ()
    """One for each call, not averaged over orders: a judge that always says A ties on average."""
    known_worse_scores: Mapping[str, Scores] = field(default_factory=dict)
    """By kind (untrained, truncated, shuffled, …): the worse answer's score, one per pair,
    averaged over both orders."""
    known_worse_clusters: Mapping[str, Sequence[Hashable]] = field(default_factory=dict)
    """The prompt of each; none: each is its own."""
    graded: frozenset[str] = frozenset()
    """Kinds of known worse answers that differ as little as a student's may."""
    measures: bool = False
    """Whether the judge measures each answer; otherwise it prefers one."""
    of_controls: Readings = Readings()
    of_pairs: Readings | None = None
    """Of student and teacher; None where no pair was read."""
    same_model_scores: Scores = ()
    """A/A: the first of two samples of one model, one score for each pair."""
    same_model_clusters: Sequence[Hashable] | None = None
    longer_scores: Scores = ()
    """The longer answer's score in pairs of equal quality, such as those of A/A."""


@dataclass(frozen=True)
class Health:
    """All checks of one judge."""

    checks: tuple[HealthCheck, ...]
    sensitivity: Sensitivity | None = None
    """None where no known worse answer was judged."""

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

    All known worse answers together must be shown to be inferior, by the test that decides on the
    student. Checks of a bias or of noise fail where the interval is beyond the limit: to demand
    proof of its absence would refuse 40% of sound judges at 619 pairs of A/A.

    Raises:
        PotstillError: A score is out of bounds, or paired lists differ in length.
    """
    sensitivity = _sensitivity(controls, plan)
    checks = [
        *_readings(controls.of_controls, "", plan),
        _identical(controls, plan),
        *_known_worse(controls, plan),
        *(
            _readings(controls.of_pairs, " on student and teacher", plan)
            if controls.of_pairs
            else ()
        ),
        *_same_model(controls, plan),
        *_length(controls, plan),
    ]
    return Health(tuple(checks), sensitivity)


def position_check(
    scores_N: Floats | None, detail: str, plan: Plan, suffix: str = ""
) -> HealthCheck:
    """Return the check of a preference for one place.

    Args:
        scores_N: Score of the answer in that place, in each pair; None if there are none.
        detail: What the score is of.
    """
    value = None
    if scores_N is not None:
        interval = mean_interval(scores_N, alpha=plan.alpha)
        value = max(0.0, interval.lower - 0.5, 0.5 - interval.upper)
    return HealthCheck(
        name=f"position{suffix}",
        value=value,
        relation="at most",
        limit=MOST_POSITION_BIAS,
        detail=f"distance from one half of the interval of {detail}",
    )


def _readings(readings: Readings, suffix: str, plan: Plan) -> list[HealthCheck]:
    failed = readings.num_failed_calls / readings.num_calls if readings.num_calls else None
    consistency = places_N = None
    if readings.shown_first_scores:
        first_N = checked_values(readings.shown_first_scores)
        second_N = _paired(readings.shown_second_scores, first_N)
        same = mean_interval((first_N == second_N).astype(np.float64), alpha=plan.alpha)
        consistency, places_N = same.upper, (1 + first_N - second_N) / 2
    return [
        HealthCheck(
            name=f"readable{suffix}",
            value=failed,
            relation="at most",
            limit=MOST_FAILED_CALLS,
            detail="share of calls without a verdict",
        ),
        HealthCheck(
            name=f"swap consistency{suffix}",
            value=consistency,
            relation="at least",
            limit=LEAST_SWAP_CONSISTENCY,
            detail="upper bound of the share of pairs with the same verdict in both orders",
        ),
        position_check(places_N, "the score of the answer shown first", plan, suffix),
    ]


def _identical(controls: JudgeControls, plan: Plan) -> HealthCheck:
    value = None
    if controls.identical_scores:
        ties_N = (checked_values(controls.identical_scores) == 0.5).astype(np.float64)
        value = mean_interval(ties_N, alpha=plan.alpha).upper
    return HealthCheck(
        name="identical answers",
        value=value,
        relation="at least",
        limit=LEAST_IDENTICAL_TIES,
        detail="upper bound of the share of readings that call identical answers equal",
    )


def _sensitivity(controls: JudgeControls, plan: Plan) -> Sensitivity | None:
    """Return 1 - 2W, of the win rate W of graded controls, without such of all known worse answers.

    A judge that is right with probability a in pairs without ties has 2a - 1: as it sees it, a
    student at ½ - d is at ½ - (2a - 1)d. Equal pairs of a set add nothing to this estimate: which
    answer of such a pair counts as the student's is arbitrary, so that their mean is ½ for every
    judge.

    Source: Rogan & Gladen 1978, Am. J. Epidemiol. 107:71, sensitivity and specificity both a.
    """
    kinds = [kind for kind in controls.known_worse_scores if kind in controls.graded]
    scores, clusters = _pooled(controls, kinds or list(controls.known_worse_scores))
    if not scores:
        return None
    # Half of alpha is left for the win rate that is tested with this bound.
    interval = mean_interval(scores, clusters, alpha=plan.alpha / 2)
    return Sensitivity(
        value=1 - 2 * interval.mean,
        lower=max(0.0, 1 - 2 * interval.upper),
        num_pairs=interval.num_values,
        sets=_graded_sets(controls, kinds, plan) if kinds else (),
    )


def _graded_sets(
    controls: JudgeControls, kinds: Sequence[str], plan: Plan
) -> tuple[GradedSet, ...]:
    """Return what the judge sees in sets of which a share 1 - 2W is worse and the others equal.

    A prompt enters with the weighted mean of its equal and its worse pairs; without an equal pair,
    with the tie that identical answers are.
    """
    worse = _by_prompt(*_pooled(controls, kinds))
    clusters = controls.same_model_clusters
    equal = _by_prompt(controls.same_model_scores, None if clusters is None else list(clusters))
    found = []
    for rate in GRADED_RATES:
        share = 1 - 2 * rate
        seen = [
            share * score + (1 - share) * equal.get(prompt, 0.5) for prompt, score in worse.items()
        ]
        interval = mean_interval(seen, alpha=plan.alpha)
        found.append(
            GradedSet(
                true_rate=rate, seen=interval.mean, lower=interval.lower, upper=interval.upper
            )
        )
    return tuple(found)


def _pooled(
    controls: JudgeControls, kinds: Sequence[str]
) -> tuple[list[float], list[Hashable] | None]:
    """Return the scores of these kinds of known worse answers, and their prompts if known."""
    scores = [one for kind in kinds for one in controls.known_worse_scores[kind]]
    clusters = [one for kind in kinds for one in controls.known_worse_clusters.get(kind, ())]
    return scores, clusters or None


def _by_prompt(scores: Scores, clusters: Sequence[Hashable] | None) -> dict[Hashable, float]:
    """Return the mean score of each prompt."""
    names = range(len(scores)) if clusters is None else clusters
    groups: dict[Hashable, list[float]] = {}
    for name, score in zip(names, scores, strict=True):
        groups.setdefault(name, []).append(score)
    return {name: float(np.mean(group)) for name, group in groups.items()}


def _known_worse(controls: JudgeControls, plan: Plan) -> list[HealthCheck]:
    kinds = [
        HealthCheck(
            name=f"known worse: {kind}",
            value=float(np.mean(scores)) if scores else None,
            relation="below",
            limit=0.5 if controls.measures else MOST_KNOWN_WORSE,
            detail="win rate of answers known to be worse",
        )
        for kind, scores in controls.known_worse_scores.items()
    ]
    scores, clusters = _pooled(controls, list(controls.known_worse_scores))
    together = HealthCheck(
        name="known worse",
        value=mean_interval(scores, clusters, alpha=plan.alpha).upper if scores else None,
        relation="below",
        limit=0.5 - LEAST_SENSITIVITY / 2,
        detail="upper bound of the win rate of all answers known to be worse",
    )
    return [*kinds, together]


def _same_model(controls: JudgeControls, plan: Plan) -> list[HealthCheck]:
    if not controls.same_model_scores:
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
    if not controls.longer_scores:
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
