from dataclasses import replace

import numpy as np
import pytest

from compare.verdict.checks import JudgeControls, judge_health
from potstill.errors import PotstillError
from potstill.verdict.outcome import Plan

PLAN = Plan()
SOUND = JudgeControls(
    identical_scores=[0.5] * 24,
    known_worse_scores={"shuffled": [0.0] * 24, "truncated": [0.0] * 20 + [0.5] * 4},
    shown_first_scores=[0.0] * 20 + [1.0] * 4,
    shown_second_scores=[0.0] * 20 + [0.0] * 4,
    same_model_scores=[0.0, 0.5, 1.0] * 8,
    longer_scores=[0.5, 0.0, 1.0] * 8,
    judge_scores_of_votes=[0.0, 1.0] * 15,
    human_scores=[0.0, 1.0] * 15,
    num_calls=200,
    num_failed_calls=2,
)


def failed(**changes):
    health = judge_health(replace(SOUND, **changes), PLAN)
    names = {check.name for check in health.checks if not check.passed}
    assert health.is_valid is not bool(names)
    assert all(name in health.reason for name in names)
    return names


def test_sound_judge_passes_every_check():
    assert failed() == set()
    assert len(judge_health(SOUND, PLAN).checks) == 9


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"num_failed_calls": 11}, "readable"),
        ({"num_calls": 0, "num_failed_calls": 0}, "readable"),
        ({"identical_scores": [0.5] * 18 + [1.0] * 6}, "identical answers"),
        ({"identical_scores": None}, "identical answers"),
        ({"known_worse_scores": {"shuffled": [0.5] * 24}}, "known worse: shuffled"),
        ({"known_worse_scores": {"shuffled": []}}, "known worse: shuffled"),
        ({"known_worse_scores": {}}, "known worse"),
        ({"shown_second_scores": [1.0] * 24}, "swap consistency"),
        ({"shown_first_scores": [1.0] * 15 + [0.0] * 9}, "position"),
        ({"same_model_scores": [0.0] * 20 + [0.5] * 4}, "A/A"),
        ({"same_model_scores": [1.0] * 20 + [0.5] * 4}, "A/A"),
        ({"longer_scores": [1.0] * 22 + [0.0] * 2}, "length"),
        ({"judge_scores_of_votes": [1.0, 0.0] * 15}, "human votes"),
    ],
)
def test_each_fault_fails_its_check(changes, name):
    assert name in failed(**changes)


def test_judge_that_prefers_what_stands_first_ties_on_average_and_is_found():
    first, second = np.ones(24), np.zeros(24)
    names = failed(
        identical_scores=[1.0, 0.0] * 24, shown_first_scores=first, shown_second_scores=second
    )
    assert {"identical answers", "swap consistency", "position"} <= names


def test_what_was_not_asked_of_people_or_length_is_no_fault():
    nothing = {"same_model_scores": None, "longer_scores": None}
    assert failed(**nothing, human_scores=None, judge_scores_of_votes=None) == set()
    assert failed(human_scores=[0.5] * 30) == set(), "only ties tell nothing"


def test_sound_judge_with_errors_is_rarely_refused_for_a_bias_it_has_not():
    rng = np.random.default_rng(0)
    refused = [
        bool(
            failed(
                same_model_scores=rng.choice([0.0, 0.5, 1.0], 24),
                longer_scores=rng.choice([0.0, 0.5, 1.0], 24),
            )
        )
        for _ in range(300)
    ]
    assert np.mean(refused) < 0.05


def test_lists_that_belong_together_must_be_of_one_length():
    with pytest.raises(PotstillError, match="differ in number"):
        judge_health(replace(SOUND, shown_second_scores=[0.0]), PLAN)
    with pytest.raises(PotstillError, match="differ in number"):
        judge_health(replace(SOUND, judge_scores_of_votes=[0.0]), PLAN)
