import numpy as np
import pytest
from scipy.stats import norm

from potstill.errors import PotstillError
from serve.experiment.sample_ratio import SAMPLE_RATIO_ALARM_P, sample_ratio_mismatch


def test_two_arms_are_a_two_sided_z_test():
    # The split of 821,588 and 815,482 users in Kohavi, Tang & Xu 2020, chapter 3.
    p_value = sample_ratio_mismatch([821_588, 815_482], [1, 1])
    z = (821_588 - 815_482) / np.sqrt(821_588 + 815_482)
    assert p_value == pytest.approx(2 * norm.sf(z))
    assert p_value == pytest.approx(1.8e-6, rel=0.05)
    assert p_value < SAMPLE_RATIO_ALARM_P


def test_a_sound_split_raises_few_alarms():
    rng = np.random.default_rng(0)
    p_values = [
        sample_ratio_mismatch(counts, [0.8, 0.1, 0.1])
        for counts in rng.multinomial(5000, [0.8, 0.1, 0.1], 500).tolist()
    ]
    assert np.mean(np.array(p_values) < 0.1) == pytest.approx(0.1, abs=0.04)


def test_few_users_raise_no_alarm_that_their_number_cannot_bear():
    assert sample_ratio_mismatch([0, 1], [99, 1]) == pytest.approx(0.01)
    assert sample_ratio_mismatch([1, 2], [99, 1]) == pytest.approx(3 * 0.01**2, rel=0.01)
    rng = np.random.default_rng(0)
    shares = [0.85, 0.1, 0.05]
    alarms = [
        sample_ratio_mismatch(counts, shares) < 0.05
        for counts in rng.multinomial(12, shares, 500).tolist()
    ]
    assert np.mean(alarms) <= 0.07


def test_an_arm_that_is_shut_is_a_mismatch_once_it_has_users():
    assert sample_ratio_mismatch([500, 0], [1, 0]) == 1
    assert sample_ratio_mismatch([500, 1], [1, 0]) == 0
    assert sample_ratio_mismatch([0, 0], [1, 1]) == 1


@pytest.mark.parametrize(
    ("counts", "shares"), [([1, 2], [1]), ([1, -2], [1, 1]), ([1, 2], [0, 0]), ([1, 2], [1, -1])]
)
def test_invalid_experiments_are_refused(counts, shares):
    with pytest.raises(PotstillError):
        sample_ratio_mismatch(counts, shares)
