"""The test of the verdict by exact enumeration; `make simulations` has more sizes."""

import numpy as np
import pytest

from benchmarks.verdict._exact import least_wins, pass_probability, reweighting
from compare.verdict.holm import holm

ALPHA = 0.05
TIES = np.arange(0, 0.96, 0.05)


@pytest.mark.parametrize("num_pairs", [29, 49, 60, 155])
@pytest.mark.parametrize(
    "threshold", [0.45, 0.55, 0.475], ids=["PASS", "FAIL, mirrored", "PASS of a paired metric"]
)
def test_false_decisions_are_at_most_alpha_with_any_share_of_ties(num_pairs, threshold):
    least_N = least_wins(reweighting, num_pairs, threshold, ALPHA)
    found = [pass_probability(least_N, threshold, ties) for ties in TIES]
    assert max(value for value in found if value is not None) <= ALPHA


def test_the_most_ties_that_a_rate_allows_are_no_exception():
    least_N = least_wins(reweighting, 60, 0.45, ALPHA)
    assert pass_probability(least_N, 0.45, 0.9) <= ALPHA


@pytest.mark.parametrize(
    ("num_pairs", "ties", "least_power"),
    [(155, 0.0, 0.31), (155, 0.5, 0.50), (155, 0.9, 0.97), (619, 0.0, 0.78), (619, 0.5, 0.96)],
)
def test_power_at_parity_is_that_of_student_s_t_within_five_points(num_pairs, ties, least_power):
    """Student's t has 0.315, 0.541, 0.986, 0.789 and 0.970."""
    least_N = least_wins(reweighting, num_pairs, 0.45, ALPHA)
    assert pass_probability(least_N, 0.5, ties) >= least_power


def test_one_of_six_slices_passes_wrongly_at_most_as_often_as_alpha():
    """Each slice has 60 pairs at 89% ties, where Student's t passes one in .23 of comparisons."""
    rng = np.random.default_rng(0)
    p_values: dict[tuple[int, int], float] = {}
    wrong = 0
    for _ in range(400):
        counts = rng.multinomial(60, [0.45 - 0.445, 0.89, 0.55 - 0.445], size=6)
        for wins, ties, losses in counts:
            if (wins, losses) not in p_values:
                p_values[wins, losses] = reweighting(wins, ties, losses, 0.45)
        wrong += min(holm([p_values[wins, losses] for wins, _, losses in counts])) < ALPHA
    # Standard error 0.011.
    assert wrong / 400 <= 0.07
