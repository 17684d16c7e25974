from dataclasses import replace

import numpy as np
import pytest

from benchmarks.verdict._judges import (
    Comparison,
    assay,
    coin,
    on_everything,
    right,
    sensitivity_of,
)
from compare.verdict.checks import JudgeControls, Readings, judge_health, position_check
from compare.verdict.following import Standing
from compare.verdict.intervals import mean_interval
from compare.verdict.people import shown_preference
from compare.verdict.preference import outcome_alone, planned_votes, votes_needed
from potstill.errors import PotstillError
from potstill.verdict.outcome import Plan
from potstill.verdict.sample_size import power_of

PLAN = Plan()
SOUND = JudgeControls(
    identical_scores=[0.5] * 24,
    known_worse_scores={"shuffled": [0.0] * 24, "truncated": [0.0] * 20 + [0.5] * 4},
    of_controls=Readings([0.0] * 20 + [1.0] * 4, [0.0] * 24, 200, 2),
    of_pairs=Readings([0.0] * 20 + [1.0] * 4, [0.0] * 24, 48, 1),
    same_model_scores=[0.0, 0.5, 1.0] * 8,
    longer_scores=[0.5, 0.0, 1.0] * 8,
)


def failed(**changes):
    health = judge_health(replace(SOUND, **changes), PLAN)
    names = {check.name for check in health.checks if not check.passed}
    assert health.is_valid is not bool(names)
    assert all(name in health.reason for name in names)
    return names


def test_sound_judge_passes_every_check():
    assert failed() == set()
    assert len(judge_health(SOUND, PLAN).checks) == 12


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"of_controls": replace(SOUND.of_controls, num_failed_calls=11)}, "readable"),
        ({"of_controls": Readings()}, "readable"),
        (
            {"of_pairs": replace(SOUND.of_pairs, num_failed_calls=3)},
            "readable on student and teacher",
        ),
        ({"identical_scores": [0.5] * 12 + [1.0] * 12}, "identical answers"),
        ({"identical_scores": []}, "identical answers"),
        ({"known_worse_scores": {"shuffled": [0.5] * 24}}, "known worse: shuffled"),
        ({"known_worse_scores": {"shuffled": []}}, "known worse: shuffled"),
        ({"known_worse_scores": {}}, "known worse"),
        ({"of_controls": Readings([0.0] * 24, [1.0] * 24, 48, 0)}, "swap consistency"),
        ({"of_controls": Readings([1.0] * 20 + [0.0] * 4, [0.0] * 24, 48, 0)}, "position"),
        (
            {"of_pairs": Readings([0.0] * 24, [1.0] * 24, 48, 0)},
            "swap consistency on student and teacher",
        ),
        ({"same_model_scores": [0.0] * 20 + [0.5] * 4}, "A/A"),
        ({"same_model_scores": [1.0] * 20 + [0.5] * 4}, "A/A"),
        ({"longer_scores": [1.0] * 22 + [0.0] * 2}, "length"),
    ],
)
def test_each_fault_fails_its_check(changes, name):
    assert name in failed(**changes)


def test_judge_that_prefers_what_stands_first_ties_on_average_and_is_found():
    read = Readings([1.0] * 24, [0.0] * 24, 48, 0)
    names = failed(identical_scores=[1.0, 0.0] * 24, of_controls=read)
    assert {"identical answers", "swap consistency", "position"} <= names


def test_what_was_not_asked_is_no_fault():
    assert failed(same_model_scores=[], longer_scores=[], of_pairs=None) == set()


def test_sound_judge_with_errors_is_rarely_refused_for_a_bias_it_has_not():
    rng = np.random.default_rng(0)
    refused = [
        bool(
            failed(
                same_model_scores=rng.choice([0.0, 0.5, 1.0], 24).tolist(),
                longer_scores=rng.choice([0.0, 0.5, 1.0], 24).tolist(),
            )
        )
        for _ in range(100)
    ]
    assert np.mean(refused) < 0.05


@pytest.mark.parametrize(("num_votes", "passes"), [(5, True), (8, True), (9, False)])
def test_voters_are_refused_once_so_many_votes_for_one_side_are_no_chance(num_votes, passes):
    """Nine of nine have a probability of 0.004 for fair voters."""
    assert position_check(np.ones(num_votes), "votes", PLAN).passed is passes


def test_lists_that_belong_together_must_be_of_one_length():
    with pytest.raises(PotstillError, match="differ in number"):
        judge_health(replace(SOUND, of_controls=Readings([0.0, 1.0], [0.0], 4, 0)), PLAN)


def health_of(share, rng):
    """Return the health of a judge that is right in this share of all readings."""
    *_, controls = assay(on_everything(right(share)), rng)
    return judge_health(controls, PLAN)


def test_a_judge_that_is_right_in_four_of_five_readings_is_accepted():
    rng = np.random.default_rng(3)
    health = [health_of(0.8, rng) for _ in range(60)]
    assert np.mean([one.is_valid for one in health]) >= 0.9
    assert all(0.1 < one.sensitivity.lower < one.sensitivity.value < 0.95 for one in health)


def test_a_judge_that_fails_on_some_controls_is_not_asked_further():
    rng = np.random.default_rng(4)
    assert not any(health_of(1 / 3, rng).is_valid for _ in range(20))
    assert sensitivity_of(on_everything(coin), PLAN, rng) is None


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("num_pairs", [155, 2000])
def test_the_margin_as_the_judge_sees_it_lets_no_worse_student_pass(share, num_pairs):
    """For a judge that errs on real pairs as in its assay, whether or not it passed that."""
    rng = np.random.default_rng(num_pairs)
    judge = on_everything(right(share))
    passed = 0
    for _ in range(60):
        scores_N = judge.scores(Comparison(num_pairs, 0, 0.45).human(rng), rng)
        interval = mean_interval(scores_N, alpha=PLAN.alpha)
        passed += outcome_alone(interval, health_of(share, rng).sensitivity, PLAN) == "PASS"
    assert passed <= 60 * 0.05 + 3


def test_a_good_judge_needs_fewer_votes():
    seen = judge_health(SOUND, PLAN).sensitivity.lower
    assert votes_needed(PLAN, 0.25, None) == 619
    assert 50 <= votes_needed(PLAN, 0.25, seen) < 400
    assert votes_needed(PLAN, 0.001, seen) == 50


@pytest.mark.parametrize(("sensitivity", "num_judged"), [(None, 619), (0.6, 2000), (0.8, 1000)])
def test_the_votes_asked_for_have_the_power_at_the_error_rate_that_they_are_tested_at(
    sensitivity, num_judged
):
    plan = replace(PLAN, alpha=Standing(PLAN.alpha).first_level)
    number = votes_needed(plan, 0.175, sensitivity, num_judged)
    level = Standing(PLAN.alpha).level_of_votes(number / planned_votes(plan))
    explained = (sensitivity or 0.0) ** 2
    variance = 0.175 * ((1 - explained) / number + explained / num_judged)
    found = power_of(plan.margin, variance**0.5, replace(plan, alpha=level))
    assert found == pytest.approx(plan.power, abs=0.003)


def test_the_sensitivity_is_that_of_graded_controls():
    kinds = {"shuffled": [0.0] * 24, "one error": [0.0, 1.0, 0.5] * 8}
    controls = replace(SOUND, known_worse_scores=kinds, graded=frozenset({"one error"}))
    found = judge_health(controls, PLAN).sensitivity
    assert (found.value, found.num_pairs, len(found.sets)) == (0.0, 24, 2)
    assert judge_health(replace(controls, graded=frozenset()), PLAN).sensitivity.sets == ()


def test_votes_show_the_sensitivity_on_real_pairs():
    votes = [None, 1.0, 1.0, 0.0, 0.0, 0.5]
    assert shown_preference([0.0, 1.0, 1.0, 0.0, 0.0, 1.0], votes) == (1.0, 0.0)
    slope, error = shown_preference([0.0, 1.0, 1.0, 0.0, 1.0, 0.5], votes)
    assert slope == 0.5
    # Residuals of ¼ three times and ¾ once, times ½, over the sum of squares of 1.
    assert error == pytest.approx(0.5 * (3 * 0.25**2 + 0.75**2) ** 0.5)
    assert shown_preference([1.0] * 6, [0.5] * 6) is None
