import numpy as np
import pytest

from compare.verdict.holm import adjusted_outcomes, holm
from compare.verdict.intervals import mean_interval
from compare.verdict.non_inferiority import outcome_of_bounds
from potstill.verdict.outcome import Outcome

ALPHA, THRESHOLD = 0.05, 0.45


def outcomes(*parts):
    intervals = [mean_interval(part, alpha=ALPHA) for part in parts]
    return [one.outcome for one in adjusted_outcomes(intervals, THRESHOLD, ALPHA)]


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, never falling.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_is_statsmodels():
    from statsmodels.stats.multitest import multipletests

    p_values = list(np.random.default_rng(2).random(30) ** 3)
    assert holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]))


def test_each_part_has_its_outcome():
    english, french = np.tile([0.0, 1.0], 800), np.tile([0.0, 0.0, 1.0], 100)
    assert outcomes(english, french, [0.5, 0.0]) == ["PASS", "FAIL", "INCONCLUSIVE"]
    assert outcomes() == []


def test_a_single_part_has_the_verdict_of_all_pairs():
    rng = np.random.default_rng(0)
    users = (np.arange(600) // 3).tolist()
    for rate in (0.35, 0.45, 0.5, 0.6):
        interval = mean_interval((rng.random(600) < rate).astype(float), users, alpha=ALPHA)
        (alone,) = adjusted_outcomes([interval], THRESHOLD, ALPHA)
        assert alone.outcome is outcome_of_bounds(interval.lower, interval.upper, THRESHOLD)


def test_ten_parts_worse_by_the_margin_have_a_wrong_pass_no_oftener_than_alpha():
    rng = np.random.default_rng(1)
    adjusted, careless = [], []
    for parts in (rng.random((100, 10, 100)) < 0.45).astype(float):
        intervals = [mean_interval(part, alpha=ALPHA) for part in parts]
        found = adjusted_outcomes(intervals, THRESHOLD, ALPHA)
        adjusted.append(any(one.outcome is Outcome.PASS for one in found))
        careless.append(any(interval.lower > THRESHOLD for interval in intervals))
    # Standard error of the share at 0.05: 0.022.
    assert np.mean(adjusted) <= 0.08
    assert np.mean(careless) > 0.25
