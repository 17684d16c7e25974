import math

import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from potstill.errors import PotstillError
from potstill.verdict.outcome import Outcome, Plan
from potstill.verdict.proportions import rate_difference


@pytest.mark.parametrize(
    ("counts", "lower", "upper"),
    [
        ((56, 70, 48, 80), 0.0524, 0.3339),
        ((9, 10, 3, 10), 0.1705, 0.8090),
        ((6, 7, 2, 7), 0.0582, 0.8062),
        ((5, 56, 0, 29), -0.0381, 0.1926),
    ],
)
def test_bounds_are_those_that_newcombe_published(counts, lower, upper):
    # Newcombe 1998, table II, method 10, two-sided 95 %.
    found = rate_difference(*counts, Plan(alpha=0.025))
    assert (found.lower, found.upper) == pytest.approx((lower, upper), abs=6e-5)


@pytest.mark.parametrize("counts", [(83, 88, 69, 76), (790, 1000, 800, 1000), (5, 10, 9, 12)])
def test_the_p_value_is_farrington_s_with_rates_of_the_highest_likelihood(counts):
    good, total, other_good, other_total = counts
    plan = Plan(margin=0.1)

    def unlikelihood(teacher):
        student = teacher - plan.margin
        logs = good * math.log(student) + (total - good) * math.log(1 - student)
        logs += other_good * math.log(teacher)
        return -(logs + (other_total - other_good) * math.log(1 - teacher))

    teacher = minimize_scalar(
        unlikelihood, bounds=(plan.margin + 1e-9, 1 - 1e-9), options={"xatol": 1e-12}
    ).x
    student = teacher - plan.margin
    error = math.sqrt(student * (1 - student) / total + teacher * (1 - teacher) / other_total)
    difference = good / total - other_good / other_total
    found = rate_difference(*counts, plan)
    assert found.difference == pytest.approx(difference)
    assert found.p_inferior == pytest.approx(norm.sf((difference + plan.margin) / error), rel=1e-4)


def test_outcomes():
    plan = Plan(margin=0.03)
    assert rate_difference(8000, 10_000, 8000, 10_000, plan).outcome is Outcome.PASS
    assert rate_difference(7000, 10_000, 8000, 10_000, plan).outcome is Outcome.FAIL
    assert rate_difference(80, 100, 80, 100, plan).outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize("counts", [(0, 20, 0, 20), (20, 20, 20, 20), (0, 20, 20, 20)])
def test_rates_of_nothing_and_of_all_have_bounds(counts):
    found = rate_difference(*counts, Plan())
    assert -1 <= found.lower < found.upper <= 1
    assert 0 <= found.p_inferior <= 1


def test_counts_that_are_no_rate_are_refused():
    with pytest.raises(PotstillError, match="teacher"):
        rate_difference(1, 2, 0, 0, Plan())
    with pytest.raises(PotstillError, match="3 of 2"):
        rate_difference(3, 2, 1, 2, Plan())
