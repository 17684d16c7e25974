from dataclasses import replace

import numpy as np
import pytest

from compare.verdict.checks import JudgeControls, Readings, judge_health
from compare.verdict.intervals import mean_interval
from compare.verdict.people import shown_preference
from compare.verdict.preference import outcome_alone, votes_needed
from potstill.errors import PotstillError
from potstill.verdict.outcome import Plan

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


def test_lists_that_belong_together_must_be_of_one_length():
    with pytest.raises(PotstillError, match="differ in number"):
        judge_health(replace(SOUND, of_controls=Readings([0.0, 1.0], [0.0], 4, 0)), PLAN)


NUM_KINDS, NUM_PROMPTS = 6, 24


def read(rng, accuracy, right_N):
    """Return a judge's readings: right in this share, else a third each."""
    wrong_N = rng.choice([0.0, 0.5, 1.0], len(right_N))
    return np.where(rng.random(len(right_N)) < accuracy, right_N, wrong_N)


def pairs(rng, accuracy, right_N):
    """Return the readings in both orders, and the score of each pair."""
    first_N, second_N = (read(rng, accuracy, right_N) for _ in range(2))
    return first_N, second_N, np.where(first_N == second_N, first_N, 0.5)


def assay(rng, accuracy):
    kinds = [pairs(rng, accuracy, np.zeros(NUM_PROMPTS)) for _ in range(NUM_KINDS)]
    first, second = (np.concatenate([kind[place] for kind in kinds]).tolist() for place in (0, 1))
    return JudgeControls(
        identical_scores=read(rng, accuracy, np.full(2 * NUM_PROMPTS, 0.5)).tolist(),
        known_worse_scores={str(n): kind[2].tolist() for n, kind in enumerate(kinds)},
        known_worse_clusters={str(n): list(range(NUM_PROMPTS)) for n in range(NUM_KINDS)},
        of_controls=Readings(first, second, 2 * len(first), 0),
    )


def test_a_judge_that_is_right_in_four_of_five_readings_is_accepted():
    rng = np.random.default_rng(3)
    # Right in 0.7, and a third of the rest: 0.8 of all readings.
    health = [judge_health(assay(rng, 0.7), PLAN) for _ in range(60)]
    assert np.mean([one.is_valid for one in health]) >= 0.9
    assert all(0.2 < one.sensitivity.lower < one.sensitivity.value < 0.9 for one in health)


def test_a_coin_is_refused():
    rng = np.random.default_rng(4)
    assert not any(judge_health(assay(rng, 0.0), PLAN).is_valid for _ in range(20))


@pytest.mark.parametrize("accuracy", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("num_pairs", [155, 2000])
def test_the_margin_as_the_judge_sees_it_lets_no_worse_student_pass(accuracy, num_pairs):
    """For a judge that errs on real pairs as in its assay, whether or not it passed that."""
    rng = np.random.default_rng(num_pairs)
    passed = 0
    for _ in range(60):
        sensitivity = judge_health(assay(rng, accuracy), PLAN).sensitivity
        truth_N = rng.choice([0.0, 0.5, 1.0], num_pairs, p=[0.45, 0.2, 0.35])
        interval = mean_interval(pairs(rng, accuracy, truth_N)[2], alpha=PLAN.alpha)
        passed += outcome_alone(interval, sensitivity, PLAN) == "PASS"
    assert passed <= 60 * 0.05 + 3


def test_a_good_judge_needs_fewer_votes():
    sensitivity = judge_health(SOUND, PLAN).sensitivity
    assert votes_needed(PLAN, 0.0, None) == 619
    assert 50 <= votes_needed(PLAN, 0.0, sensitivity) < 300
    assert votes_needed(PLAN, 1.0, sensitivity) == 50


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
