import math

import numpy as np
import pytest

from potstill.verdict.betting import LARGEST_STAKE, VARIANCE_PRIOR_VALUES, log_wealth
from potstill.verdict.outcome import Plan

PLAN = Plan()
LOOKS = slice(49, None, 50)
NEEDED = math.log(1 / PLAN.alpha)


def draws(rate, ties, num_experiments, num_pairs, seed):
    """Scores 0, ½ and 1 of a student with this win rate, one experiment a row."""
    chances = np.random.default_rng(seed).random((num_experiments, num_pairs))
    return np.where(chances < ties, 0.5, np.where(chances < rate + ties / 2, 1.0, 0.0))


def test_wealth_is_what_a_loop_over_bets_gives():
    scores = draws(0.5, 0.3, 1, 200, seed=0)[0]
    non_inferior, inferior = log_wealth(scores, PLAN)
    for sign, planned, largest, path in (
        (1, 0.50, 0.45, non_inferior),
        (-1, 0.40, 0.55, inferior),
    ):
        wealth = 1.0
        for row, score in enumerate(scores):
            earlier = scores[:row]
            mean = (619 * planned + earlier.sum()) / (619 + row)
            spread = ((earlier - earlier.mean()) ** 2).sum() if row else 0.0
            variance = (VARIANCE_PRIOR_VALUES / 4 + spread) / (VARIANCE_PRIOR_VALUES + row)
            distance = max(0.0, sign * (mean - 0.45))
            bet = min(distance / (variance + distance**2), LARGEST_STAKE / largest)
            wealth *= 1 + bet * sign * (score - 0.45)
            assert path[row] == pytest.approx(math.log(wealth), abs=1e-9)


@pytest.mark.parametrize("ties", [0.0, 0.4])
def test_peeking_at_a_student_worse_by_the_margin_passes_it_no_oftener_than_alpha(ties):
    scores = draws(0.45, ties, 2000, 1500, seed=1)
    non_inferior, inferior = log_wealth(scores, PLAN)
    assert (non_inferior[:, LOOKS] >= NEEDED).any(axis=1).mean() <= PLAN.alpha
    # Nor does looking after every single pair, or asking whether it is to fail.
    assert (non_inferior >= NEEDED).any(axis=1).mean() <= PLAN.alpha
    assert (inferior >= NEEDED).any(axis=1).mean() <= PLAN.alpha


@pytest.mark.parametrize("ties", [0.0, 0.4])
def test_peeking_with_fixed_sample_bounds_passes_it_several_times_as_often(ties):
    scores = draws(0.45, ties, 2000, 1500, seed=1)
    counts = np.arange(1, 1501)
    means = np.cumsum(scores, axis=1) / counts
    variances = np.cumsum(scores**2, axis=1) / counts - means**2
    lower = means - 1.645 * np.sqrt(variances / counts)
    assert (lower[:, LOOKS] > 0.45).any(axis=1).mean() > 4 * PLAN.alpha


def test_peeking_at_a_model_against_itself_fails_it_no_oftener_than_alpha():
    non_inferior, inferior = log_wealth(draws(0.5, 0.2, 2000, 1500, seed=2), PLAN)
    assert (inferior[:, LOOKS] >= NEEDED).any(axis=1).mean() <= PLAN.alpha
    assert (non_inferior[:, LOOKS] >= NEEDED).any(axis=1).mean() > 0.95


def test_validity_at_parity_costs_next_to_no_pairs():
    non_inferior, _ = log_wealth(draws(0.5, 0.0, 1000, 2500, seed=3), PLAN)
    passed = non_inferior >= NEEDED
    stops = np.where(passed.any(axis=1), passed.argmax(axis=1) + 1, 2500)
    # 619 pairs decide with probability 0.8 in a test of fixed size.
    assert np.median(stops) < 700


def test_an_inferior_student_fails():
    _, inferior = log_wealth(draws(0.35, 0.2, 300, 1000, seed=4), PLAN)
    assert (inferior >= NEEDED).any(axis=1).mean() > 0.99


def test_wealth_never_ends_and_never_comes_back_from_nothing():
    for scores in (np.zeros(5000), np.ones(5000), np.tile([0.0, 1.0], 2500)):
        for path in log_wealth(scores, PLAN):
            assert np.isfinite(path).all()
