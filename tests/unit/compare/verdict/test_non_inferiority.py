import numpy as np
import pytest
from scipy import stats

from benchmarks.verdict._exact import least_wins, pass_probability, reweighting
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


def test_further_pairs_lead_to_a_decision_with_the_plan_s_power():
    first = win_rate(np.repeat([0.0, 1.0], 50))
    further = further_values(first, THRESHOLD, PLAN)
    assert 100 + further == pytest.approx(619, abs=8)
    least_N = least_wins(reweighting, 100 + further, THRESHOLD, PLAN.alpha)
    assert pass_probability(least_N, 0.5, 0.0) == pytest.approx(0.8, abs=0.02)


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


def test_small_differences_do_not_exclude_a_rare_large_one():
    rng = np.random.default_rng(3)
    teacher = rng.random(600)
    student = np.clip(teacher - 0.02 + 0.05 * rng.normal(size=600), 0, 1)
    interval = mean_interval(student - teacher, alpha=0.05, bounds=(-1, 1))
    expected = stats.ttest_rel(student, teacher).confidence_interval(0.90)
    unseen = 3 / 600
    assert expected.low - 1.2 * unseen < interval.lower < expected.low
    outcomes = [
        outcome_of_bounds(interval.lower, interval.upper, -margin) for margin in (0.05, 0.001, 0.02)
    ]
    assert outcomes == ["PASS", "FAIL", "INCONCLUSIVE"]


def test_a_difference_needs_as_many_as_its_win_rate():
    scores = np.repeat([0.0, 0.5, 1.0], 30)
    difference = mean_interval(2 * scores - 1, alpha=PLAN.alpha, bounds=(-1, 1))
    further = further_values(win_rate(scores), THRESHOLD, PLAN)
    assert further_values(difference, 2 * THRESHOLD - 1, PLAN) == further > 0
