import numpy as np
import pytest
from scipy import stats

from potstill.errors import PotstillError
from potstill.verdict.non_inferiority import (
    WinRate,
    difference_verdict,
    further_pairs,
    judge_verdict,
    paired_difference,
    win_rate,
)
from potstill.verdict.outcome import Outcome, Plan

PLAN = Plan()


def _verdict(wins, ties, losses):
    scores = [1.0] * wins + [0.5] * ties + [0.0] * losses
    return judge_verdict(win_rate(scores, alpha=PLAN.alpha), PLAN)


def test_verdicts_of_plain_cases():
    assert _verdict(400, 200, 400) is Outcome.PASS
    assert _verdict(200, 200, 600) is Outcome.FAIL
    assert _verdict(20, 10, 20) is Outcome.INCONCLUSIVE
    assert _verdict(0, 3, 0) is Outcome.INCONCLUSIVE
    assert _verdict(2, 17, 5) is Outcome.INCONCLUSIVE


def test_a_win_rate_counts_ties_as_half():
    rate = win_rate([1, 0.5, 0, 0.5], ["a", "a", "b", "c"], alpha=0.05)
    assert (rate.rate, rate.tie_share, rate.num_pairs, rate.num_clusters) == (0.5, 0.5, 4, 3)


def test_power_at_parity_is_what_619_pairs_are_planned_for():
    rng = np.random.default_rng(0)
    passed = [
        judge_verdict(win_rate(scores, alpha=PLAN.alpha), PLAN) is Outcome.PASS
        for scores in (rng.random((1500, 619)) < 0.5).astype(float)
    ]
    # Standard error 0.010.
    assert np.mean(passed) == pytest.approx(0.80, abs=0.03)


def test_a_student_worse_by_the_margin_passes_with_probability_alpha():
    rng = np.random.default_rng(1)
    outcomes = [
        judge_verdict(win_rate(scores, alpha=PLAN.alpha), PLAN)
        for scores in (rng.random((1500, 619)) < 0.45).astype(float)
    ]
    shares = [np.mean([one == wanted for one in outcomes]) for wanted in ("PASS", "FAIL")]
    # Standard error 0.006.
    assert shares == pytest.approx([0.05, 0.05], abs=0.02)


def test_further_pairs_lead_to_a_decision_with_the_plan_s_power():
    rng = np.random.default_rng(2)
    first = win_rate(np.repeat([0.0, 1.0], 50), alpha=PLAN.alpha)
    further = further_pairs(first, PLAN)
    assert 100 + further == pytest.approx(619, abs=8)
    total = 100 + further
    decided = [
        judge_verdict(win_rate(scores, alpha=PLAN.alpha), PLAN) is Outcome.PASS
        for scores in (rng.random((400, total)) < 0.5).astype(float)
    ]
    assert np.mean(decided) == pytest.approx(0.8, abs=0.06)


def test_further_pairs_grow_with_clusters_and_know_when_to_give_up():
    scores = np.repeat([0.0, 1.0], 50)
    alone = further_pairs(win_rate(scores, alpha=PLAN.alpha), PLAN)
    in_fives = win_rate(scores, np.repeat(np.arange(20), 5).tolist(), alpha=PLAN.alpha)
    assert further_pairs(in_fives, PLAN) > 4 * alone
    decided = win_rate(np.repeat([0.0, 1.0], 5000), alpha=PLAN.alpha)
    assert further_pairs(decided, PLAN) == 0
    on_it = win_rate([1.0] * 45 + [0.0] * 55, alpha=PLAN.alpha)
    assert further_pairs(on_it, PLAN) is None


def test_ties_alone_are_decided_by_the_rule_of_three():
    three = win_rate([0.5] * 3, alpha=PLAN.alpha)
    further = further_pairs(three, PLAN)
    assert _verdict(0, 3 + further, 0) is Outcome.PASS
    assert _verdict(0, 2 + further, 0) is Outcome.INCONCLUSIVE


def test_a_paired_difference_is_the_paired_t_test():
    rng = np.random.default_rng(3)
    teacher = rng.random(80)
    student = np.clip(teacher - 0.02 + 0.05 * rng.normal(size=80), 0, 1)
    difference = paired_difference(student, teacher, alpha=0.05)
    expected = stats.ttest_rel(student, teacher).confidence_interval(0.90)
    assert (difference.lower, difference.upper) == pytest.approx((expected.low, expected.high))
    assert difference.difference == pytest.approx(difference.student_mean - difference.teacher_mean)
    assert difference_verdict(difference, Plan(margin=0.05)) is Outcome.PASS
    assert difference_verdict(difference, Plan(margin=0.001)) is Outcome.FAIL
    assert difference_verdict(difference, Plan(margin=0.02)) is Outcome.INCONCLUSIVE


def test_a_metric_in_percent_needs_its_bounds():
    with pytest.raises(PotstillError, match="out of bounds"):
        paired_difference([51.0, 48.0], [50.0, 50.0], alpha=0.05)
    percent = paired_difference([51.0, 48.0], [50.0, 50.0], alpha=0.05, bounds=(0, 100))
    assert percent.difference == -0.5
    with pytest.raises(PotstillError, match="same prompts"):
        paired_difference([0.5], [0.5, 0.5], alpha=0.05)


def test_bounds_of_another_alpha_are_refused():
    rate = WinRate(0.5, 0.01, 0.48, 0.52, 100, 100, 0.0, "t", alpha=0.1)
    with pytest.raises(PotstillError, match="alpha"):
        judge_verdict(rate, PLAN)
