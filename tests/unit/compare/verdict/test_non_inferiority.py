import numpy as np
import pytest
from scipy import stats

from compare.verdict.intervals import mean_interval
from compare.verdict.non_inferiority import further_values, outcome_of_bounds
from potstill.verdict.outcome import Outcome, Plan

PLAN = Plan()
THRESHOLD = PLAN.win_rate_threshold


def win_rate(scores, clusters=None):
    return mean_interval(scores, clusters, alpha=PLAN.alpha)


def verdict(scores):
    interval = win_rate(scores)
    return outcome_of_bounds(interval.lower, interval.upper, THRESHOLD)


def _verdict(wins, ties, losses):
    return verdict([1.0] * wins + [0.5] * ties + [0.0] * losses)


def test_verdicts_of_plain_cases():
    assert _verdict(400, 200, 400) is Outcome.PASS
    assert _verdict(200, 200, 600) is Outcome.FAIL
    assert _verdict(20, 10, 20) is Outcome.INCONCLUSIVE
    assert _verdict(0, 3, 0) is Outcome.INCONCLUSIVE
    assert _verdict(2, 17, 5) is Outcome.INCONCLUSIVE


def test_power_at_parity_is_what_619_pairs_are_planned_for():
    rng = np.random.default_rng(0)
    passed = [
        verdict(scores) is Outcome.PASS for scores in (rng.random((1500, 619)) < 0.5).astype(float)
    ]
    # Standard error 0.010.
    assert np.mean(passed) == pytest.approx(0.80, abs=0.03)


def test_a_student_worse_by_the_margin_passes_with_probability_alpha():
    rng = np.random.default_rng(1)
    outcomes = [verdict(scores) for scores in (rng.random((1500, 619)) < 0.45).astype(float)]
    shares = [np.mean([one == wanted for one in outcomes]) for wanted in ("PASS", "FAIL")]
    # Standard error 0.006.
    assert shares == pytest.approx([0.05, 0.05], abs=0.02)


def test_further_pairs_lead_to_a_decision_with_the_plan_s_power():
    rng = np.random.default_rng(2)
    first = win_rate(np.repeat([0.0, 1.0], 50))
    further = further_values(first, THRESHOLD, PLAN)
    assert 100 + further == pytest.approx(619, abs=8)
    total = 100 + further
    decided = [
        verdict(scores) is Outcome.PASS for scores in (rng.random((400, total)) < 0.5).astype(float)
    ]
    assert np.mean(decided) == pytest.approx(0.8, abs=0.06)


def test_further_pairs_grow_with_clusters_and_know_when_to_give_up():
    scores = np.repeat([0.0, 1.0], 50)
    alone = further_values(win_rate(scores), THRESHOLD, PLAN)
    in_fives = win_rate(scores, np.repeat(np.arange(20), 5).tolist())
    assert further_values(in_fives, THRESHOLD, PLAN) > 4 * alone
    decided = win_rate(np.repeat([0.0, 1.0], 5000))
    assert further_values(decided, THRESHOLD, PLAN) == 0
    on_it = win_rate([1.0] * 45 + [0.0] * 55)
    assert further_values(on_it, THRESHOLD, PLAN) is None


def test_ties_alone_are_decided_by_the_rule_of_three():
    three = win_rate([0.5] * 3)
    further = further_values(three, THRESHOLD, PLAN)
    assert _verdict(0, 3 + further, 0) is Outcome.PASS
    assert _verdict(0, 2 + further, 0) is Outcome.INCONCLUSIVE


def test_a_paired_difference_is_the_paired_t_test():
    rng = np.random.default_rng(3)
    teacher = rng.random(80)
    student = np.clip(teacher - 0.02 + 0.05 * rng.normal(size=80), 0, 1)
    interval = mean_interval(student - teacher, alpha=0.05, bounds=(-1, 1))
    expected = stats.ttest_rel(student, teacher).confidence_interval(0.90)
    assert (interval.lower, interval.upper) == pytest.approx((expected.low, expected.high))
    outcomes = [
        outcome_of_bounds(interval.lower, interval.upper, -margin) for margin in (0.05, 0.001, 0.02)
    ]
    assert outcomes == ["PASS", "FAIL", "INCONCLUSIVE"]


def test_a_difference_needs_as_many_as_its_win_rate():
    scores = np.repeat([0.0, 0.5, 1.0], 30)
    difference = mean_interval(2 * scores - 1, alpha=PLAN.alpha, bounds=(-1, 1))
    further = further_values(win_rate(scores), THRESHOLD, PLAN)
    assert further_values(difference, 2 * THRESHOLD - 1, PLAN) == further > 0
