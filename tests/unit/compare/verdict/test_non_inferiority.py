import numpy as np
from scipy import stats

from compare.verdict.intervals import mean_interval
from compare.verdict.non_inferiority import outcome_of_bounds
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
