import math

import numpy as np
import pytest

from potstill.errors import PotstillError
from serve.experiment.bounded_mean import difference_of_means, mean_bounds


def in_a_loop(values, alpha):
    """Theorem 2 as printed, value by value."""
    lower, upper, found = 0.0, 1.0, []
    log_term = math.log(2 / alpha)
    weight_sum = weighted = spread = 0.0
    seen, squares, variance = [], 0.0, 0.25
    for t, value in enumerate(values, start=1):
        weight = min(math.sqrt(2 * log_term / (variance * t * math.log(1 + t))), 0.5)
        mean_before = (0.5 + sum(seen)) / t
        psi = (-math.log(1 - weight) - weight) / 4
        spread += 4 * (value - mean_before) ** 2 * psi
        weight_sum += weight
        weighted += weight * value
        center, radius = weighted / weight_sum, (log_term + spread) / weight_sum
        lower, upper = max(lower, center - radius), min(upper, center + radius)
        found.append((lower, upper))
        seen.append(value)
        squares += (value - (0.5 + sum(seen)) / (t + 1)) ** 2
        variance = (0.25 + squares) / (t + 1)
    return np.array(found).T


@pytest.mark.parametrize("alpha", [0.01, 0.1])
def test_the_bounds_are_those_of_the_theorem(alpha):
    values = np.random.default_rng(1).beta(2, 1, 300)
    np.testing.assert_allclose(mean_bounds(values, alpha), in_a_loop(values, alpha), rtol=1e-9)


@pytest.mark.parametrize("rate", [0.5, 0.8, 0.97])
def test_they_hold_at_all_looks_together(rate):
    values = (np.random.default_rng(0).random((2000, 1000)) < rate).astype(float)
    lower, upper = mean_bounds(values, 0.1)
    assert ((lower > rate) | (upper < rate)).any(axis=1).mean() <= 0.1


def test_they_are_narrower_where_ratings_agree():
    rng = np.random.default_rng(2)
    spread, agreed = (rng.random(1000) < 0.5).astype(float), rng.uniform(0.45, 0.55, 1000)
    widths = [np.subtract(*mean_bounds(one, 0.05)[::-1])[-1] for one in (spread, agreed)]
    assert widths[1] < 0.3 * widths[0] < 0.06


def test_a_difference_holds_at_all_looks_together_and_is_found():
    rng = np.random.default_rng(3)
    first, second = (rng.random(2000) < rate for rate in (0.6, 0.8))
    found = difference_of_means(first, second, 0.05)
    assert found.difference == pytest.approx(first.mean() - second.mean())
    assert found.lower < -0.2 < found.upper < 0
    one = difference_of_means([1.0], [0.0], 0.05)
    assert (one.lower, one.upper) == (-1.0, 1.0)


def test_invalid_ratings_are_refused():
    with pytest.raises(PotstillError):
        difference_of_means([0.5], [1.5], 0.05)
    with pytest.raises(PotstillError):
        difference_of_means([], [0.5], 0.05)
