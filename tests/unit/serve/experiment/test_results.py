"""The verdict of stored judgments: failures are scores like any other."""

import numpy as np
import pytest

from serve.experiment.config import ExperimentConfig
from serve.experiment.results import VOTES, verdict_of
from serve.storage.queries import Batch

from .conftest import split

NUM_EXPERIMENTS, NUM_PAIRS = 300, 600


def outcome(config: ExperimentConfig, scores: list[float]) -> str:
    """Return the last outcome; a PASS at any earlier look is kept, unless it became FAIL."""
    batch = Batch(VOTES, True, scores, [str(number) for number in range(len(scores))])
    return verdict_of(config, [batch], {})["outcome"]


def test_a_student_that_fails_too_often_passes_no_oftener_than_alpha_at_all_looks_together():
    """It ties when it answers, and fails so often that it is worse by exactly the margin."""
    config = split(margin=0.1, alpha=0.1)
    rng = np.random.default_rng(0)
    lost = rng.random((NUM_EXPERIMENTS, NUM_PAIRS)) < 0.2
    found = [outcome(config, list(np.where(one, 0.0, 0.5))) for one in lost]
    assert found.count("PASS") <= 45  # 300 · 0.1 and three standard errors
    # Without the pairs that it lost by failing, each of them would have passed.
    answered = [outcome(config, [0.5] * int((~one).sum())) for one in lost[:20]]
    assert set(answered) == {"PASS"}


def test_a_pass_is_withheld_while_the_teacher_fails_oftener_than_a_student_may():
    config = split(guardrails={"most_errors": 0.1})
    batch = Batch(VOTES, True, [1.0] * 100, [str(number) for number in range(100)])
    few = verdict_of(config, [batch], {"teacher": 10})
    many = verdict_of(config, [batch], {"teacher": 11})
    assert (few["outcome"], few["is_withheld"]) == ("PASS", False)
    assert (many["outcome"], many["is_withheld"]) == ("INCONCLUSIVE", True)
    worse = Batch(VOTES, True, [0.0] * 100, batch.users)
    assert verdict_of(config, [worse], {"teacher": 50})["outcome"] == "FAIL"


def test_a_pass_that_the_newest_users_contradict_is_withdrawn():
    config = split()
    passed = Batch(VOTES, True, [0.5] * 400, [str(number) for number in range(400)])
    fallen = Batch(VOTES, True, [0.0, 0.5] * 20, [f"late {number}" for number in range(40)])
    before, after = (verdict_of(config, given, {}) for given in ([passed], [passed, fallen]))
    assert (before["outcome"], before["is_withdrawn"]) == ("PASS", False)
    assert (after["outcome"], after["is_withdrawn"]) == ("INCONCLUSIVE", True)
    assert after["recent"]["users"] == 300
    assert after["recent"]["win_rate"] < 0.5


@pytest.mark.parametrize(
    ("score", "outcome", "alone"),
    [(1.0, "INCONCLUSIVE", "PASS"), (0.0, "FAIL", "FAIL"), (0.45, "INCONCLUSIVE", "INCONCLUSIVE")],
)
def test_a_judge_other_than_people_passes_no_student(score, outcome, alone):
    users = [str(number) for number in range(400)]
    by_judge, by_people = (
        verdict_of(split(), [Batch(judge, True, [score] * 400, users)], {})
        for judge in ("j", VOTES)
    )
    assert (by_judge["outcome"], by_judge["alone"]) == (outcome, alone)
    assert (by_people["outcome"], by_people["alone"]) == (alone, None)
