"""Do student and teacher differ in how often they are right on the same prompts?

In: right or wrong, of both, on each prompt. Out: the four counts and McNemar's p-values. Knows
nothing of margins: "no difference was found" is not "no worse", which `intervals` of the difference
tell, and which also know of clusters. Here prompts are taken as independent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from potstill.errors import PotstillError


@dataclass(frozen=True)
class McNemar:
    """Counts of prompts, and p-values of "both are right equally often"."""

    num_both: int
    num_only_student: int
    num_only_teacher: int
    num_neither: int
    p_exact: float
    """Never wrong more often than promised, and less often than that by far."""
    p_mid: float
    """Nearer to what is promised, with more power."""


def mcnemar(student_correct: ArrayLike, teacher_correct: ArrayLike) -> McNemar:
    """Compare the prompts that only one of both answered rightly; two-sided.

    With b and c such prompts: exact p = 2 P(X <= min(b, c)), X binomial of b + c and ½; mid-p is
    less by P(X = min(b, c)), or by half of it where b = c.

    Source: Fagerland, Lydersen & Laake 2013, BMC Med. Res. Methodol. 13:91, and its supplement.

    Raises:
        PotstillError: Not as many of one as of the other, or none.
    """
    student_N, teacher_N = np.asarray(student_correct), np.asarray(teacher_correct)
    if student_N.shape != teacher_N.shape or student_N.ndim != 1 or student_N.size == 0:
        raise PotstillError(
            "McNemar's test needs student and teacher on the same prompts.",
            expected="two lists of one length",
            found=f"shapes {student_N.shape} and {teacher_N.shape}",
        )
    student_N, teacher_N = student_N.astype(bool), teacher_N.astype(bool)
    only_student = int((student_N & ~teacher_N).sum())
    only_teacher = int((~student_N & teacher_N).sum())
    p_exact, p_mid = _p_values(only_student, only_teacher)
    return McNemar(
        num_both=int((student_N & teacher_N).sum()),
        num_only_student=only_student,
        num_only_teacher=only_teacher,
        num_neither=int((~student_N & ~teacher_N).sum()),
        p_exact=p_exact,
        p_mid=p_mid,
    )


def _p_values(only_student: int, only_teacher: int) -> tuple[float, float]:
    from scipy.stats import binom

    fewer, discordant = min(only_student, only_teacher), only_student + only_teacher
    if discordant == 0:
        return 1.0, 1.0
    observed = float(binom.pmf(fewer, discordant, 0.5))
    if only_student == only_teacher:
        return 1.0, 1 - observed / 2
    p_exact = 2 * float(binom.cdf(fewer, discordant, 0.5))
    return p_exact, p_exact - observed
