"""McNemar's test: whether student and teacher are correct equally often on the same prompts.

In: correct or not, of both, on each prompt. Out: `Discordance`. A large p-value does not show that
the student is non-inferior, which the interval of the difference does; prompts are taken as
independent here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from compare.verdict.figures import Discordance
from potstill.errors import PotstillError


def mcnemar(student_correct: ArrayLike, teacher_correct: ArrayLike) -> Discordance:
    """Test the prompts that only one of both answered correctly; exact and two-sided.

    With b and c such prompts, p = 2 P(X <= min(b, c)), X binomial of b + c and ½.

    Source: Fagerland, Lydersen & Laake 2013, BMC Med. Res. Methodol. 13:91.

    Raises:
        PotstillError: The lists differ in length or are empty.
    """
    from scipy.stats import binomtest

    student_N, teacher_N = np.asarray(student_correct), np.asarray(teacher_correct)
    if student_N.shape != teacher_N.shape or student_N.ndim != 1 or student_N.size == 0:
        raise PotstillError(
            "McNemar's test needs student and teacher on the same prompts",
            expected="two lists of one length",
            found=f"shapes {student_N.shape} and {teacher_N.shape}",
        )
    student_N, teacher_N = student_N.astype(bool), teacher_N.astype(bool)
    only_student = int((student_N & ~teacher_N).sum())
    discordant = int((student_N != teacher_N).sum())
    p_exact = float(binomtest(only_student, discordant).pvalue) if discordant else 1.0
    return Discordance(
        only_student=only_student, only_teacher=discordant - only_student, p_exact=p_exact
    )
