"""Comparisons that follow one another: looks at growing samples, and several judges."""

import math

import numpy as np
import pytest

from benchmarks.verdict._followed import Followed, outcomes
from compare.verdict.following import Counted, Standing, counted, kept_level, log_calibrated
from compare.verdict.intervals import mean_interval
from potstill.verdict.outcome import Outcome, Plan

PLAN = Plan()
THRESHOLD = PLAN.win_rate_threshold
UNIT = (0.0, 1.0)


def values(scores, start=0):
    return tuple(Counted(str(start + n), 1, one, one) for n, one in enumerate(map(float, scores)))


def line(*batches, alpha=0.05, bounds=UNIT, margin=PLAN.margin):
    *earlier, last = batches
    return Standing(alpha, batches=tuple(earlier)).line(last, bounds, margin)


def scores(rate, number, seed=0):
    return (np.random.default_rng(seed).random(number) < rate).astype(float)


def test_an_e_value_has_an_expectation_of_one():
    p_N = (np.arange(200_000) + 0.5) / 200_000
    assert np.mean([math.exp(log_calibrated(p, 0.04, 0.045)) for p in p_N]) == pytest.approx(
        1, 1e-3
    )
    assert (np.diff([log_calibrated(p, 0.04, 0.045) for p in p_N[::100]]) <= 0).all()


def test_a_first_comparison_is_the_exact_test_at_its_part_of_alpha():
    found = scores(0.5, 300)
    interval = mean_interval(found, alpha=0.04)
    first = line(values(found))
    assert first.lower(THRESHOLD) == pytest.approx(interval.lower, abs=1e-5)
    assert first.upper(THRESHOLD) == pytest.approx(interval.upper, abs=1e-5)


def test_parts_of_alpha_never_exceed_it():
    lines = [Standing(0.05, num_lines) for num_lines in range(9)]
    assert [lines[0].first_level, lines[0].line_level] == pytest.approx([0.04, 0.045])
    assert sum(one.line_level for one in lines) == pytest.approx(0.05)
    later = [kept_level(0.05, number) for number in range(1, 20)]
    assert later[:2] == pytest.approx([0.0025, 0.00125])
    assert lines[0].first_level + sum(later) == pytest.approx(lines[0].line_level)


def test_votes_spend_alpha_in_proportion_and_never_more():
    first = Standing(0.05)
    assert [first.level_of_votes(share) for share in (0.1, 0.5, 1.0, 3.0)] == pytest.approx(
        [0.004, 0.02, 0.04, 0.04]
    )
    half = Standing(0.05, batches=((),), share_voted=0.5)
    assert half.level_of_votes(0.5) == pytest.approx(0.0025), "no vote was added"
    assert half.level_of_votes(1.0) == pytest.approx(0.0225)
    spent, voted = 0.0, 0.0
    for look, share in enumerate((0.1, 0.3, 0.3, 1.5, 2.0, 2.0)):
        standing = Standing(0.05, batches=((),) * look, share_voted=voted)
        spent, voted = spent + standing.level_of_votes(share), max(voted, share)
    assert 0.04 < spent <= first.line_level


@pytest.mark.parametrize("num_first", [49, 155, 619])
def test_no_look_at_any_number_of_prompts_passes_a_worse_student_oftener_than_alpha(num_first):
    """`make simulations` follows comparisons to 20,000 prompts each."""
    rng = np.random.default_rng(num_first)
    passed = failed = 0
    for _ in range(40):
        drawn = values(rng.choice([0.0, 0.5, 1.0], num_first + 1000, p=[0.4, 0.3, 0.3]))
        found = line(drawn[:num_first], drawn[num_first:])
        passed += found.is_shown_above(THRESHOLD)
        failed += found.is_shown_below(THRESHOLD)
    # Each has a probability of at most .045: more than 8 of 40 one of 0.0001.
    assert passed <= 8
    assert failed <= 8


@pytest.mark.parametrize(("rate", "expected"), [(0.55, Outcome.PASS), (0.35, Outcome.FAIL)])
def test_comparisons_that_are_followed_come_to_an_end(rate, expected):
    shares, median = outcomes(Followed(rate, 0.3, 49), PLAN, 5, np.random.default_rng(0))
    assert shares[expected] == 1
    assert 49 <= median < 3000


def test_as_many_prompts_as_are_asked_for_decide_with_the_plan_s_power():
    first = values(np.repeat([0.0, 1.0], 77))
    further = line(first).further_clusters(THRESHOLD, PLAN.power)
    rng = np.random.default_rng(1)
    decided = [
        line(first, values((rng.random(further) < 0.5) * 1.0, 154)).is_shown_above(THRESHOLD)
        for _ in range(60)
    ]
    # The wealth may have been enough before the last prompt, so that they decide somewhat oftener.
    assert PLAN.power - 0.1 < np.mean(decided) < 1


def test_ties_alone_decide_soon():
    first = line(values([0.5] * 3))
    further = first.further_clusters(THRESHOLD, PLAN.power)
    assert 30 < further < 200
    assert line(values([0.5] * 3), values([0.5] * further, 3)).is_shown_above(THRESHOLD)


def test_what_is_at_the_threshold_or_takes_millions_is_not_extrapolated():
    assert line(values([1.0] * 45 + [0.0] * 55)).further_clusters(THRESHOLD, 0.8) is None
    nearly = line(values([1.0] * 4501 + [0.0] * 5499))
    assert nearly.further_clusters(THRESHOLD, 0.8) is None


def test_a_difference_is_tested_as_its_win_rate():
    first, later = scores(0.52, 80), scores(0.52, 400, seed=1)
    rates = line(values(first), values(later, 80))
    differences = line(
        values(2 * first - 1), values(2 * later - 1, 80), bounds=(-1.0, 1.0), margin=0.1
    )
    assert differences.mean == pytest.approx(2 * rates.mean - 1)
    assert differences.lower(-0.1) == pytest.approx(2 * rates.lower(THRESHOLD) - 1, abs=1e-4)
    assert differences.upper(-0.1) == pytest.approx(2 * rates.upper(THRESHOLD) - 1, abs=1e-4)
    assert differences.further_clusters(-0.1, 0.8) == rates.further_clusters(THRESHOLD, 0.8)


def test_bounds_agree_with_what_is_shown_and_hold_the_mean():
    found = line(values(scores(0.5, 619)), values(scores(0.5, 900, seed=2), 619))
    assert found.is_shown_above(THRESHOLD) is (found.lower(THRESHOLD) > THRESHOLD)
    assert 0.4 < found.lower(THRESHOLD) < found.mean < found.upper(THRESHOLD) < 0.6


def test_a_cluster_counts_once_in_a_line():
    standing = Standing(0.05, batches=(values([1.0, 0.0]), values([1.0], 2)))
    assert standing.new(values([0.0, 0.0, 0.0, 1.0])) == values([1.0], 3)
    assert standing.line(values([0.0]), UNIT, 0.05).later == values([1.0], 2)


def test_unread_pairs_are_the_worst_for_either_outcome():
    found = counted([1.0, None, 0.5], ["a", "a", "b"], ["1", "2", "3"], UNIT)
    assert found == (
        Counted("a", 2, 0.5, 1.0, ("1", "2")),
        Counted("b", 1, 0.5, 0.5, ("3",)),
    )
    read = values(scores(0.5, 200))
    unread = tuple(Counted(f"u{n}", 1, 0.0, 1.0) for n in range(50))
    with_unread, without = line(read, unread), line(read)
    assert with_unread.log_evidence_above(THRESHOLD) <= without.log_evidence_above(THRESHOLD)
    assert with_unread.lower(THRESHOLD) <= without.lower(THRESHOLD)
    assert with_unread.upper(THRESHOLD) >= without.upper(THRESHOLD) - 1e-5
