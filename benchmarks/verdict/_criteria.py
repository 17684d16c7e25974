"""Simulated judges of yes/no criteria, whose errors may depend on whose answer they read.

In: a judge's error rates, a true difference. Out: a comparison's scores, and the mean corrected by
people's labels of both answers to some prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from compare.verdict.human_correction import human_corrected
from compare.verdict.intervals import MeanInterval

Floats = NDArray[np.float64]
NUM_CRITERIA = 3
TEACHER_RATE = 0.8
"""Share of criteria that the teacher's answers meet."""
SHARED = 0.5
"""Share of readings where both answers meet or miss a criterion for the prompt's sake."""


@dataclass(frozen=True)
class Errors:
    """How often a judge says "yes" of one side's answers."""

    sensitivity: float
    """Of those that meet a criterion."""
    specificity: float
    """It says "no" so often of those that do not."""

    def read(self, true_NK: NDArray[np.bool_], rng: Generator) -> NDArray[np.bool_]:
        """Return the judge's readings."""
        yes_NK = np.where(true_NK, self.sensitivity, 1 - self.specificity)
        return rng.random(true_NK.shape) < yes_NK


@dataclass(frozen=True)
class CriteriaJudge:
    """A judge's errors on each side's answers."""

    student: Errors
    teacher: Errors


def equally(sensitivity: float, specificity: float) -> CriteriaJudge:
    """Return a judge that errs equally on both sides."""
    errors = Errors(sensitivity, specificity)
    return CriteriaJudge(errors, errors)


JUDGES: dict[str, CriteriaJudge] = {
    "never errs": equally(1.0, 1.0),
    "right on 95%": equally(0.95, 0.95),
    "right on 90%": equally(0.9, 0.9),
    "right on 75%": equally(0.75, 0.75),
    "misses 40% of what is met": equally(0.6, 0.95),
    "sees 40% of what is not met": equally(0.95, 0.4),
    "a coin": equally(0.5, 0.5),
    "always yes": equally(1.0, 0.0),
    "lenient with the student": CriteriaJudge(Errors(0.98, 0.5), Errors(0.95, 0.95)),
    "strict with the teacher": CriteriaJudge(Errors(0.95, 0.95), Errors(0.8, 0.95)),
    "strict with the student": CriteriaJudge(Errors(0.85, 0.95), Errors(0.95, 0.95)),
    "always yes to the student": CriteriaJudge(Errors(1.0, 0.0), Errors(0.95, 0.95)),
}


@dataclass(frozen=True)
class Labeled:
    """Pairs of a student that meets criteria less often by a true difference, some labeled."""

    num_pairs: int
    num_labeled: int
    difference: float

    def scores(self, judge: CriteriaJudge, rng: Generator) -> tuple[Floats, Floats]:
        """Draw people's scores of all pairs and the judge's: ½ and half the difference."""
        shape = (self.num_pairs, NUM_CRITERIA)
        draws_NK, others_NK = rng.random(shape), rng.random(shape)
        student_NK = np.where(rng.random(shape) < SHARED, draws_NK, others_NK)
        teacher_true = draws_NK < TEACHER_RATE
        student_true = student_NK < TEACHER_RATE + self.difference
        people_N = _score(student_true, teacher_true)
        read = judge.student.read(student_true, rng), judge.teacher.read(teacher_true, rng)
        return people_N, _score(*read)

    def corrected(self, judge: CriteriaJudge, rng: Generator) -> MeanInterval:
        """Draw a comparison and return its mean score by people's labels."""
        people_N, judge_N = self.scores(judge, rng)
        number = min(self.num_labeled, self.num_pairs)
        labels = [*people_N[:number], *[None] * (self.num_pairs - number)]
        return human_corrected(judge_N, labels, alpha=0.05)


def _score(student_NK: NDArray[np.bool_], teacher_NK: NDArray[np.bool_]) -> Floats:
    difference_N: Floats = student_NK.mean(axis=1) - teacher_NK.mean(axis=1)
    return 0.5 + difference_N / 2
