import numpy as np
import pytest

from potstill.power_law import fit, mean_interval

AMOUNTS = (100, 200, 400)


def answers(errors, num_references, seed=0):
    """Return right and wrong answers whose references are as hard for every student."""
    hardness_R = np.random.default_rng(seed).random(num_references)
    return np.array([(hardness_R >= error).astype(float) for error in errors])


def law(scale, exponent):
    return [scale * amount**-exponent for amount in AMOUNTS]


@pytest.mark.parametrize(("scale", "exponent"), [(2.0, 0.4), (0.3, 0.0), (0.05, -0.2)])
def test_a_power_law_is_found_again(scale, exponent):
    fitted = fit(AMOUNTS, 1.0 - np.array(law(scale, exponent))[:, None] * np.ones(50))
    assert fitted.exponent.value == pytest.approx(exponent, abs=1e-9)
    assert fitted.value(800).value == pytest.approx(1.0 - scale * 800**-exponent, abs=1e-9)


def test_intervals_hold_the_truth_about_as_often_as_they_claim():
    """In 90% of 40 draws of references; 31 at least, which chance misses once in 400."""
    held = {"exponent": 0, "value": 0}
    for seed in range(40):
        fitted = fit(AMOUNTS, answers(law(2.0, 0.4), 300, seed), seed)
        held["exponent"] += fitted.exponent.low <= 0.4 <= fitted.exponent.high
        value = fitted.value(800)
        held["value"] += value.low <= 1.0 - 2.0 * 800**-0.4 <= value.high
    assert all(count >= 31 for count in held.values()), held


def test_the_interval_widens_with_the_distance():
    fitted = fit(AMOUNTS, answers(law(2.0, 0.4), 300))
    near, far = fitted.value(400), fitted.value(6400)
    assert near.low <= near.value <= near.high
    assert far.high - far.low > 0.5 * (near.high - near.low)
    assert far.value > near.value


def test_no_error_at_all_is_finite():
    fitted = fit(AMOUNTS, np.ones((3, 20)))
    assert fitted.value(800).value == pytest.approx(1.0 - 0.5 / 20)
    assert np.isfinite([fitted.exponent.low, fitted.exponent.high]).all()


def test_a_mean_has_the_interval_of_its_bootstrap():
    """Against the normal approximation of a share."""
    figure = mean_interval(np.repeat([1.0, 0.0], [480, 120]))
    assert figure.value == 0.8
    half = 1.645 * np.sqrt(0.8 * 0.2 / 600)
    assert figure.low == pytest.approx(0.8 - half, abs=0.004)
    assert figure.high == pytest.approx(0.8 + half, abs=0.004)
