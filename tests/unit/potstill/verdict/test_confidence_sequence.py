import math

import numpy as np
import pytest
from scipy.stats import norm

from potstill.verdict.confidence_sequence import mixture_variance, one_sided_radius


def test_the_one_sided_radius_is_outside_of_its_half_normal_mixture_and_near_it():
    for count in (10, 619, 5000):
        rho_squared = mixture_variance(0.10, 619)
        total = one_sided_radius(count, 1.0, 0.05, tightest_at=619) * count
        scale = count * rho_squared + 1
        mixture = 2 * math.exp(total**2 * rho_squared / (2 * scale)) / math.sqrt(scale)
        mixture *= norm.cdf(math.sqrt(rho_squared / scale) * total)
        assert 1 / 0.05 <= mixture < 1.1 / 0.05


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1])
def test_the_mixture_is_tightest_where_it_is_asked_to_be(alpha):
    best = mixture_variance(alpha, 500)
    # The approximation of the paper's appendix B.2.
    logarithm = -2 * math.log(alpha)
    assert best == pytest.approx((logarithm + math.log(logarithm + 1)) / 500, rel=0.05)

    def radius(rho_squared):
        scale = 500 * rho_squared + 1
        return scale / rho_squared * math.log(scale / alpha**2)

    assert radius(best) < min(radius(best * 0.98), radius(best * 1.02))


def test_each_bound_holds_at_all_looks_together():
    rng = np.random.default_rng(0)
    counts = np.arange(50, 2001, 50)
    totals = np.cumsum((rng.random((2000, 2000)) < 0.5), axis=1)[:, counts - 1]
    means = totals / counts
    for alpha in (0.05, 0.2):
        radius = np.array(
            [one_sided_radius(int(count), 0.25, alpha, tightest_at=619) for count in counts]
        )
        assert (means - radius > 0.5).any(axis=1).mean() <= alpha
        assert (means + radius < 0.5).any(axis=1).mean() <= alpha


def test_the_radius_scales_with_the_standard_deviation():
    single = one_sided_radius(300, 0.25, 0.05, tightest_at=619)
    assert one_sided_radius(300, 1.0, 0.05, tightest_at=619) == pytest.approx(2 * single)
