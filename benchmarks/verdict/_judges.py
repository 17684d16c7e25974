"""Simulated judges, which see a pair's quality and style and err in their own way.

In: a judge, a true win rate. Out: a comparison's scores, and the mean corrected by people's votes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from compare.verdict.human_correction import human_corrected
from compare.verdict.intervals import MeanInterval

Floats = NDArray[np.float64]
Judge = Callable[[Floats, Generator], Floats]
"""From people's scores of the student to the judge's."""
VALUES = np.array([0.0, 0.5, 1.0])


def right(share: float) -> Judge:
    """Return a judge that is right in this share of pairs, and else prefers the other answer."""

    def judge(human_N: Floats, rng: Generator) -> Floats:
        return np.where(rng.random(len(human_N)) < share, human_N, 1 - human_N)

    return judge


def ties(share: float) -> Judge:
    """Return a judge that is right or, in this share of pairs, ties."""

    def judge(human_N: Floats, rng: Generator) -> Floats:
        return np.where(rng.random(len(human_N)) < share, 0.5, human_N)

    return judge


def coin(human_N: Floats, rng: Generator) -> Floats:
    """Prefer either answer, or tie."""
    return rng.choice(VALUES, len(human_N))


def style(human_N: Floats, rng: Generator) -> Floats:  # noqa: ARG001
    """Prefer the student, whose style differs from the teacher's."""
    return np.ones_like(human_N)


def mostly_style(human_N: Floats, rng: Generator) -> Floats:
    """Prefer the student's style in half of the pairs."""
    return np.where(rng.random(len(human_N)) < 0.5, 1.0, human_N)


JUDGES: dict[str, Judge] = {
    "80 % right": right(0.8),
    "70 % right": right(0.7),
    "65 % right": right(0.65),
    "60 % right": right(0.6),
    "80 % ties": ties(0.8),
    "always ties": ties(1.0),
    "a coin": coin,
    "prefers the student's style": style,
    "prefers its style in half": mostly_style,
}


@dataclass(frozen=True)
class Comparison:
    """Pairs of a student with this true win rate, some with a person's vote."""

    num_pairs: int
    num_votes: int
    rate: float
    tie_share: float

    def human(self, rng: Generator) -> Floats:
        """Draw people's scores."""
        wins = self.rate - self.tie_share / 2
        return rng.choice(
            VALUES, self.num_pairs, p=[1 - wins - self.tie_share, self.tie_share, wins]
        )

    def corrected(self, judge: Judge, rng: Generator) -> MeanInterval:
        """Draw a comparison and return its win rate by people's preference."""
        human_N = self.human(rng)
        votes = [*human_N[: self.num_votes], *[None] * (self.num_pairs - self.num_votes)]
        return human_corrected(judge(human_N, rng), votes, alpha=0.05)
