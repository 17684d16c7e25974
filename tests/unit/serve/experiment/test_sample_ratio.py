import numpy as np
import pytest
from scipy.stats import multinomial, norm

from serve.experiment.sample_ratio import (
    PRIOR_USERS,
    SAMPLE_RATIO_ALARM_P,
    sample_ratio_mismatch,
)

EVEN = {"a": 0.5, "b": 0.5}


def test_a_clear_mismatch_is_found():
    # The split of 821,588 and 815,482 users in Kohavi, Tang & Xu 2020, chapter 3; a single look
    # would give 1.8e-6.
    counts = {"a": 821_588, "b": 815_482}
    z = (821_588 - 815_482) / np.sqrt(sum(counts.values()))
    assert 2 * norm.sf(z) < sample_ratio_mismatch([(EVEN, counts)]) < 0.01
    assert sample_ratio_mismatch([(EVEN, {"a": 30})]) < SAMPLE_RATIO_ALARM_P


def test_it_is_the_ratio_of_the_mean_likelihood_to_that_of_the_configured_shares():
    counts, shares = [30, 55, 15], [0.5, 0.4, 0.1]
    draws = np.random.default_rng(0).dirichlet(PRIOR_USERS * np.array(shares), 200_000)
    factor = multinomial.pmf(counts, 100, draws).mean() / multinomial.pmf(counts, 100, shares)
    arms = ("a", "b", "c")
    split = dict(zip(arms, shares, strict=True)), dict(zip(arms, counts, strict=True))
    assert sample_ratio_mismatch([split]) == pytest.approx(1 / factor, rel=0.05)
    assert sample_ratio_mismatch([split, split]) == pytest.approx(factor**-2, rel=0.1)


def test_a_sound_split_that_is_looked_at_often_raises_few_alarms():
    rng = np.random.default_rng(0)
    alarms = 0
    for students in rng.binomial(100, 0.1, (1000, 50)).cumsum(axis=1):
        looks = enumerate(students.tolist(), start=1)
        alarms += any(
            sample_ratio_mismatch([({"s": 0.1, "t": 0.9}, {"s": one, "t": 100 * look - one})])
            < 0.01
            for look, one in looks
        )
    assert alarms <= 20  # 10 are expected at most; Pearson's χ² at each look has 100


def test_an_arm_that_is_shut_is_a_mismatch_once_it_has_users():
    closed = {"a": 1.0, "b": 0.0}
    assert sample_ratio_mismatch([(closed, {"a": 500})]) == 1
    assert sample_ratio_mismatch([(closed, {"a": 500, "b": 1})]) == 0
    assert sample_ratio_mismatch([]) == 1
