import numpy as np
import pytest

from compare.verdict.mcnemar import mcnemar
from potstill.errors import PotstillError


def _answers(both, only_student, only_teacher, neither):
    student = [1] * (both + only_student) + [0] * (only_teacher + neither)
    teacher = [1] * both + [0] * only_student + [1] * only_teacher + [0] * neither
    return student, teacher


def test_the_published_example():
    # Bentur et al. 2009 in Fagerland, Lydersen & Laake 2013, tables 1 and 3.
    result = mcnemar(*_answers(1, 1, 7, 12))
    assert (result.only_student, result.only_teacher) == (1, 7)
    assert result.p_exact == pytest.approx(0.0703, abs=5e-5)


@pytest.mark.parametrize("table", [(50, 3, 9, 10), (50, 9, 3, 10), (0, 4, 4, 0), (1, 0, 6, 1)])
def test_the_exact_p_value_is_statsmodels(table):
    from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

    both, only_student, only_teacher, neither = table
    expected = statsmodels_mcnemar([[both, only_student], [only_teacher, neither]], exact=True)
    result = mcnemar(*_answers(*table))
    assert result.p_exact == pytest.approx(min(1.0, expected.pvalue))


def test_no_disagreement_is_no_evidence():
    assert mcnemar([True, False], [True, False]).p_exact == 1


def test_answers_to_other_prompts_are_refused():
    with pytest.raises(PotstillError, match="same prompts"):
        mcnemar(np.ones(3), np.ones(4))
