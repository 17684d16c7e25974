import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

from potstill.errors import PotstillError
from potstill.verdict.mcnemar import mcnemar


def _answers(both, only_student, only_teacher, neither):
    student = [1] * (both + only_student) + [0] * (only_teacher + neither)
    teacher = [1] * both + [0] * only_student + [1] * only_teacher + [0] * neither
    return student, teacher


def test_the_published_example():
    # Bentur et al. 2009 in Fagerland, Lydersen & Laake 2013, tables 1 and 3.
    result = mcnemar(*_answers(1, 1, 7, 12))
    counts = (result.num_both, result.num_only_student, result.num_only_teacher)
    assert (*counts, result.num_neither) == (1, 1, 7, 12)
    assert result.p_exact == pytest.approx(0.0703, abs=5e-5)
    assert result.p_mid == pytest.approx(0.0391, abs=5e-5)


@pytest.mark.parametrize("table", [(50, 3, 9, 10), (50, 9, 3, 10), (0, 4, 4, 0), (1, 0, 6, 1)])
def test_the_exact_p_value_is_statsmodels(table):
    both, only_student, only_teacher, neither = table
    expected = statsmodels_mcnemar([[both, only_student], [only_teacher, neither]], exact=True)
    result = mcnemar(*_answers(*table))
    assert result.p_exact == pytest.approx(min(1.0, expected.pvalue))
    assert result.p_mid < result.p_exact


def test_no_disagreement_is_no_evidence():
    result = mcnemar([True, False], [True, False])
    assert (result.p_exact, result.p_mid) == (1, 1)


def test_as_many_on_either_side_lose_half_of_the_observed_probability():
    assert mcnemar(*_answers(0, 1, 1, 0)).p_mid == pytest.approx(1 - 0.5 / 2)


def test_answers_to_other_prompts_are_refused():
    with pytest.raises(PotstillError, match="same prompts"):
        mcnemar(np.ones(3), np.ones(4))
