"""Simulated judges, which read each pair in both orders and err in their own way.

In: people's scores of pairs. Out: a judge's readings, its assay, and the win rate corrected by
people's votes.

Shape legend: N pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from compare.config import AssayConfig
from compare.verdict.checks import JudgeControls, Readings, judge_health
from compare.verdict.figures import Sensitivity
from compare.verdict.human_correction import human_corrected
from compare.verdict.intervals import MeanInterval
from potstill.verdict.outcome import Plan

Floats = NDArray[np.float64]
Reading = Callable[[Floats, Generator], Floats]
"""From people's scores of the student to a judge's, in one order."""
Orders = tuple[Floats, Floats]
"""Readings with the student's answer shown first, and shown second."""
Reader = Callable[[Floats, Generator], Orders]
VALUES = np.array([0.0, 0.5, 1.0])
TIE_SHARE = 0.3
NUM_PROMPTS = AssayConfig().num_prompts


def right(share: float) -> Reading:
    """Return a judge that is right in this share of readings, and else errs in either way."""

    def reading(human_N: Floats, rng: Generator) -> Floats:
        wrong_N = (human_N + rng.choice([0.5, 1.0], len(human_N))) % 1.5
        return np.where(rng.random(len(human_N)) < share, human_N, wrong_N)

    return reading


def contrary(share: float) -> Reading:
    """Return a judge that is right in this share of pairs, and else prefers the other answer."""

    def reading(human_N: Floats, rng: Generator) -> Floats:
        return np.where(rng.random(len(human_N)) < share, human_N, 1 - human_N)

    return reading


def ties(share: float) -> Reading:
    """Return a judge that is right or, in this share of pairs, ties."""

    def reading(human_N: Floats, rng: Generator) -> Floats:
        return np.where(rng.random(len(human_N)) < share, 0.5, human_N)

    return reading


def coin(human_N: Floats, rng: Generator) -> Floats:
    """Prefer either answer, or tie."""
    return rng.choice(VALUES, len(human_N))


def style(share: float) -> Reading:
    """Return a judge that prefers the student's style in this share of pairs, or is right."""

    def reading(human_N: Floats, rng: Generator) -> Floats:
        return np.where(rng.random(len(human_N)) < share, 1.0, human_N)

    return reading


def each_order(reading: Reading) -> Reader:
    """Return a judge whose errors in one order say nothing about the other."""
    return lambda human_N, rng: (reading(human_N, rng), reading(human_N, rng))


def both_orders(reading: Reading) -> Reader:
    """Return a judge that says the same in both orders."""

    def reader(human_N: Floats, rng: Generator) -> Orders:
        said_N = reading(human_N, rng)
        return said_N, said_N

    return reader


@dataclass(frozen=True)
class Judge:
    """How a judge reads pairs of student and teacher, and the controls of its assay."""

    of_pairs: Reader
    of_controls: Reader = field(default=both_orders(right(1.0)))

    def scores(self, human_N: Floats, rng: Generator) -> Floats:
        """Return its scores of pairs of student and teacher."""
        return score_of(self.of_pairs(human_N, rng))


def score_of(orders: Orders) -> Floats:
    """Return the scores of pairs: a tie where the orders disagree."""
    first_N, second_N = orders
    return np.where(first_N == second_N, first_N, 0.5)


def on_everything(reading: Reading) -> Judge:
    """Return a judge that reads controls no better than pairs."""
    return Judge(each_order(reading), each_order(reading))


JUDGES: dict[str, Judge] = {
    "80% right": on_everything(right(0.8)),
    "70% right": on_everything(right(0.7)),
    "65% right": on_everything(right(0.65)),
    "60% right": on_everything(right(0.6)),
    "60% right, alike in both orders": Judge(both_orders(contrary(0.6))),
    "80% ties": Judge(both_orders(ties(0.8))),
    "always ties": Judge(both_orders(ties(1.0))),
    "a coin, alike in both orders": Judge(both_orders(coin)),
    "prefers the student's style": Judge(both_orders(style(1.0))),
    "prefers its style in half": Judge(both_orders(style(0.5))),
}
"""The first four err on all that they read; the others only on pairs of student and teacher."""


@dataclass(frozen=True)
class Comparison:
    """Pairs of a student with this true win rate, some with a person's vote."""

    num_pairs: int
    num_votes: int
    rate: float
    tie_share: float = TIE_SHARE

    def human(self, rng: Generator) -> Floats:
        """Draw people's scores."""
        wins = self.rate - self.tie_share / 2
        return rng.choice(
            VALUES, self.num_pairs, p=[1 - wins - self.tie_share, self.tie_share, wins]
        )

    def corrected(self, judge: Judge, rng: Generator) -> MeanInterval:
        """Draw a comparison and return its win rate by people's preference."""
        human_N = self.human(rng)
        return by_votes(judge.scores(human_N, rng), human_N, self.num_votes, alpha=0.05)


def by_votes(scores_N: Floats, human_N: Floats, num_votes: int, alpha: float) -> MeanInterval:
    """Return the win rate by people's preference, with votes on the first pairs."""
    votes = [*human_N[:num_votes], *[None] * (len(human_N) - num_votes)]
    return human_corrected(scores_N, votes, alpha=alpha)


def assay(judge: Judge, rng: Generator) -> Iterator[JudgeControls]:
    """Yield a judge's controls so far, after each of the plain ones and after all."""
    worse_N = np.zeros(NUM_PROMPTS)
    identical = judge.of_controls(np.full(NUM_PROMPTS, 0.5), rng)
    plain = ["shuffled", "of another prompt", "padded", "instructs the judge", "truncated"]
    graded = ["one error", "known worse"]
    same = judge.of_controls(Comparison(NUM_PROMPTS, 0, 0.5).human(rng), rng)
    read: dict[str, Orders] = {}

    def so_far(*others: Orders) -> JudgeControls:
        known = {name: said for name, said in read.items() if name != "padded"}
        first, second = zip(*read.values(), *others, strict=True) if read else ((), ())
        longer_N = rng.random(NUM_PROMPTS) < 0.5
        longer = [np.where(longer_N, score_of(one), 1 - score_of(one)) for one in others]
        longer += [score_of(read[name]) for name in read if name not in known]
        return JudgeControls(
            identical_scores=np.concatenate(identical).tolist(),
            known_worse_scores={name: score_of(said).tolist() for name, said in known.items()},
            known_worse_clusters={name: range(NUM_PROMPTS) for name in known},
            graded=frozenset(graded),
            of_controls=Readings(
                _joined(first), _joined(second), 2 * NUM_PROMPTS * (1 + len(first))
            ),
            same_model_scores=_joined([score_of(one) for one in others]),
            same_model_clusters=range(NUM_PROMPTS) if others else None,
            longer_scores=_joined(longer),
        )

    yield so_far()
    for name in plain:
        read[name] = judge.of_controls(worse_N, rng)
        yield so_far()
    read |= {name: judge.of_controls(worse_N, rng) for name in graded}
    yield so_far(same)


def sensitivity_of(judge: Judge, plan: Plan, rng: Generator) -> Sensitivity | None:
    """Return the sensitivity that an assay finds; None where it refuses the judge, maybe early."""
    for controls in assay(judge, rng):
        health = judge_health(controls, plan)
        if any(check.passed is False for check in health.checks):
            return None
    return health.sensitivity


def is_refused_on_pairs(orders: Orders, plan: Plan) -> bool:
    """Return whether a judge fails a check on pairs of student and teacher."""
    first_N, second_N = orders
    read = Readings(first_N.tolist(), second_N.tolist(), 2 * len(first_N))
    checks = judge_health(JudgeControls(of_pairs=read), plan).checks
    return any(check.passed is False for check in checks)


def _joined(parts: Iterable[Floats]) -> list[float]:
    return [float(one) for part in parts for one in part]
