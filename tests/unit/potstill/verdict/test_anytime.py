import math

import numpy as np
import pytest

from potstill.errors import PotstillError
from potstill.verdict.anytime import WinRateMonitor
from potstill.verdict.betting import log_wealth
from potstill.verdict.outcome import Outcome, Plan

PLAN = Plan()


def _scores(rate, num_pairs, seed=0):
    return (np.random.default_rng(seed).random(num_pairs) < rate).astype(float)


def _watched(scores, step):
    monitor = WinRateMonitor(PLAN)
    for start in range(0, len(scores), step):
        monitor.update(scores[start : start + step])
    return monitor


def test_before_the_first_pair_nothing_is_known():
    monitor = WinRateMonitor(PLAN)
    assert monitor.update([]) is Outcome.INCONCLUSIVE
    assert (monitor.rate, monitor.lower, monitor.upper) == (None, 0.0, 1.0)
    assert monitor.log_e_non_inferior == monitor.log_e_inferior == 0


def test_it_passes_a_student_at_parity_and_fails_a_worse_one():
    assert _watched(_scores(0.5, 1500), 50).outcome is Outcome.PASS
    worse = _watched(_scores(0.3, 1500), 50)
    assert worse.outcome is Outcome.FAIL
    assert worse.upper < 0.45
    assert worse.log_e_inferior > math.log(20) > 0 > worse.log_e_non_inferior


@pytest.mark.parametrize("step", [1, 7, 50])
def test_how_pairs_are_handed_over_changes_nothing(step):
    scores = _scores(0.47, 400)
    at_once, in_steps = _watched(scores, 400), _watched(scores, step)
    assert in_steps.num_pairs == at_once.num_pairs == 400
    for name in (
        "log_e_non_inferior",
        "log_e_inferior",
        "highest_log_e_non_inferior",
        "highest_log_e_inferior",
        "lower",
        "upper",
    ):
        assert getattr(in_steps, name) == pytest.approx(getattr(at_once, name))
    paths = log_wealth(scores, PLAN)
    assert in_steps.log_e_non_inferior == pytest.approx(paths[0][-1])
    assert in_steps.highest_log_e_inferior == pytest.approx(max(0.0, paths[1].max()))


@pytest.mark.slow
def test_thousands_of_peeked_experiments_pass_a_worse_student_no_oftener_than_alpha():
    # The monitor itself; `test_betting` has more runs of its bets.
    rng = np.random.default_rng(5)
    passed = 0
    for scores in (rng.random((1000, 1000)) < 0.45).astype(float):
        monitor = WinRateMonitor(PLAN)
        passed += any(
            monitor.update(scores[start : start + 50]) is Outcome.PASS
            for start in range(0, 1000, 50)
        )
    assert 0 < passed / 1000 <= PLAN.alpha


def test_a_verdict_stays_but_a_pass_gives_way_to_a_fail():
    monitor = _watched(_scores(0.55, 1000), 50)
    assert monitor.outcome is Outcome.PASS
    monitor.update(_scores(0.40, 300))
    assert monitor.outcome is Outcome.PASS
    monitor.update(_scores(0.05, 3000))
    assert monitor.outcome is Outcome.FAIL
    monitor.update(_scores(1.0, 30_000))
    assert monitor.outcome is Outcome.FAIL


def test_a_cluster_counts_once_with_its_mean():
    monitor = WinRateMonitor(PLAN)
    monitor.update([1, 0, 0, 1], ["ann", "bob", "ann", "cy"])
    assert (monitor.moments.count, monitor.num_pairs) == (3, 4)
    assert monitor.rate == pytest.approx((0.5 + 0 + 1) / 3)
    before = monitor.log_e_non_inferior
    monitor.update([1, 1], ["ann", "bob"])
    assert monitor.log_e_non_inferior == before
    assert (monitor.moments.count, monitor.num_pairs) == (3, 4)
    monitor.update([1, 0], ["ann", "dee"])
    assert (monitor.moments.count, monitor.num_pairs) == (4, 5)


def test_copies_in_clusters_bring_no_evidence():
    scores = _scores(0.5, 300)
    once, copied = WinRateMonitor(PLAN), WinRateMonitor(PLAN)
    once.update(scores, list(range(300)))
    copied.update(np.repeat(scores, 10), np.repeat(np.arange(300), 10).tolist())
    assert copied.num_pairs == 3000
    assert copied.log_e_non_inferior == pytest.approx(once.log_e_non_inferior)
    assert copied.lower == pytest.approx(once.lower)


def test_a_score_out_of_bounds_is_refused_and_changes_nothing():
    monitor = WinRateMonitor(PLAN)
    with pytest.raises(PotstillError, match="row 1"):
        monitor.update([0.5, 2.0], ["a", "b"])
    assert monitor == WinRateMonitor(PLAN)


@pytest.mark.slow
def test_a_pass_is_withdrawn_soon_after_the_student_falls_behind_and_rarely_without_reason():
    rng = np.random.default_rng(7)
    alarms, found = 0, 0
    for _ in range(120):
        steady, falling = WinRateMonitor(PLAN), WinRateMonitor(PLAN)
        for _ in range(40):
            steady.update((rng.random(50) < 0.5) * 1.0)
            if steady.has_fallen:
                alarms += 1
                break
        falling.update((rng.random(1000) < 0.5) * 1.0)
        for _ in range(50):
            falling.update((rng.random(10) < 0.4) * 1.0)
            if falling.has_fallen:
                found += 1
                break
    # Probabilities 0.03 and 0.92; standard errors 0.016 and 0.025.
    assert alarms <= 0.05 * 120 + 3
    assert found >= 0.86 * 120


def test_the_present_is_the_newest_clusters():
    monitor = WinRateMonitor(PLAN)
    monitor.update([0.0] * 200, list(range(200)))
    monitor.update([1.0] * 300, list(range(200, 500)))
    assert monitor.recent_rate == 1.0
    assert monitor.rate == 0.6
