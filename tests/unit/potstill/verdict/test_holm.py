import numpy as np
import pytest

from potstill.errors import PotstillError
from potstill.verdict.holm import holm, slice_verdicts
from potstill.verdict.non_inferiority import judge_verdict, win_rate
from potstill.verdict.outcome import Outcome, Plan

PLAN = Plan()


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, never falling.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_worst_slice_comes_first_and_fails():
    scores = np.concatenate([np.tile([0.0, 1.0], 800), np.tile([0.0, 0.0, 1.0], 100), [0.5, 0.0]])
    slices = {"English": range(1600), "French": range(1600, 1900), "Irish": range(1900, 1902)}
    verdicts = slice_verdicts(scores, slices, PLAN)
    assert [one.name for one in verdicts] == ["French", "Irish", "English"]
    assert [one.outcome for one in verdicts] == ["FAIL", "INCONCLUSIVE", "PASS"]
    assert verdicts[0].win_rate.num_pairs == 300


def test_a_single_slice_has_the_verdict_of_all_pairs():
    rng = np.random.default_rng(0)
    for rate in (0.35, 0.45, 0.5, 0.6):
        scores = (rng.random(600) < rate).astype(float)
        users = (np.arange(600) // 3).tolist()
        (alone,) = slice_verdicts(scores, {"all": range(600)}, PLAN, users)
        assert alone.outcome is judge_verdict(win_rate(scores, users, alpha=PLAN.alpha), PLAN)


def test_ten_slices_worse_by_the_margin_have_a_wrong_pass_no_oftener_than_alpha():
    rng = np.random.default_rng(1)
    slices = {str(part): range(part * 100, part * 100 + 100) for part in range(10)}
    adjusted, careless = [], []
    for _ in range(200):
        scores = (rng.random(1000) < 0.45).astype(float)
        verdicts = slice_verdicts(scores, slices, PLAN)
        adjusted.append(any(one.outcome is Outcome.PASS for one in verdicts))
        careless.append(any(one.win_rate.lower > 0.45 for one in verdicts))
    # Standard error of the share at 0.05: 0.015.
    assert np.mean(adjusted) <= 0.08
    assert np.mean(careless) > 0.25


def test_slices_need_rows_and_pairs_their_clusters():
    with pytest.raises(PotstillError, match="Irish"):
        slice_verdicts([0.5, 0.5], {"Irish": []}, PLAN)
    with pytest.raises(PotstillError, match="cluster"):
        slice_verdicts([0.5, 0.5], {"all": [0, 1]}, PLAN, ["a"])
