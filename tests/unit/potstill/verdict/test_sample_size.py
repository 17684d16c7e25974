import pytest

from potstill.errors import ConfigError
from potstill.verdict.outcome import Plan
from potstill.verdict.sample_size import (
    pairs_for_non_inferiority,
    power,
    score_variance,
)


@pytest.mark.parametrize(
    ("margin", "without_ties", "with_40_percent"),
    [(0.10, 155, 93), (0.05, 619, 371), (0.03, 1718, 1031), (0.02, 3865, 2319)],
)
def test_pairs_at_parity(margin, without_ties, with_40_percent):
    plan = Plan(margin=margin)
    assert pairs_for_non_inferiority(plan) == without_ties
    assert pairs_for_non_inferiority(plan, tie_share=0.4) == with_40_percent


def test_power_is_the_inverse_of_the_number():
    plan = Plan()
    assert power(plan, 619) == pytest.approx(0.8, abs=0.001)
    assert power(plan, 619, rate=plan.win_rate_threshold) == pytest.approx(plan.alpha)
    assert power(plan, 619, rate=0.55) > 0.99
    # z = 0.05/0.05 - 1.645 at 100 pairs.
    assert power(plan, 100) == pytest.approx(0.2595, abs=1e-4)


def test_variance_of_a_score_is_that_of_its_three_values():
    wins, ties, losses = 0.35, 0.2, 0.45
    mean = wins + ties / 2
    expected = wins * (1 - mean) ** 2 + ties * (0.5 - mean) ** 2 + losses * mean**2
    assert score_variance(mean, ties) == pytest.approx(expected)


@pytest.mark.parametrize(("rate", "ties"), [(0.0, 0), (1.0, 0), (0.2, 0.5), (0.9, 0.3), (0.5, 1)])
def test_rates_that_cannot_be_are_refused(rate, ties):
    with pytest.raises(ConfigError):
        score_variance(rate, ties)


def test_no_number_of_pairs_passes_a_student_on_the_threshold():
    with pytest.raises(ConfigError, match="above"):
        pairs_for_non_inferiority(Plan(), rate=0.45)
