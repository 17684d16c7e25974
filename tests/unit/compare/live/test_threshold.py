"""Thresholds of cascades: few answers escalated, without overfitting."""

import random

import pytest

from compare.live.threshold import Confident, fit_threshold
from potstill.errors import ArtifactError
from potstill.verdict.outcome import Outcome, Plan


def rows(number: int, *, worse_below: float, seed: int = 0) -> list[Confident]:
    """Return answers of which those below a confidence lose and the others tie."""
    chance = random.Random(seed)
    found = []
    for index in range(number):
        confidence = -2 * chance.random()
        lead = 0.0 if confidence >= worse_below else -0.5
        found.append(Confident(confidence, lead, f"c{index}"))
    return found


def test_what_loses_is_escalated_and_little_else():
    found = fit_threshold(rows(2000, worse_below=-1.0), Plan())
    # A win rate of 0.45 is reached with a tenth of the answers lost: -1.2 of what goes down to -2.
    assert found.least_mean_logprob == pytest.approx(-1.2, abs=0.08)
    assert found.share_escalated == pytest.approx(0.4, abs=0.06)
    assert found.outcome in (Outcome.PASS, Outcome.INCONCLUSIVE)
    assert found.student_lead == pytest.approx(-0.25, abs=0.05)
    assert found.num_fitted + found.num_checked == 2000


def test_a_student_that_is_as_good_is_never_thrown_away():
    found = fit_threshold(rows(400, worse_below=-9.0), Plan())
    assert found.share_escalated <= 1 / 100
    assert (found.lead, found.outcome) == (0.0, Outcome.PASS)


@pytest.mark.slow
def test_confidence_that_tells_nothing_escalates_nearly_all():
    chance = random.Random(1)
    answers = [
        Confident(-chance.random(), float(chance.random() < 0.1) - 0.5, f"c{n}")
        for n in range(1000)
    ]
    assert fit_threshold(answers, Plan()).share_escalated > 0.8


@pytest.mark.slow
def test_the_target_is_missed_no_more_often_than_alpha_says():
    """The student loses where it is unsure, and its true cascade is known exactly."""
    plan = Plan(margin=0.1, alpha=0.1)
    num_missed = 0
    for seed in range(200):
        found = fit_threshold(rows(300, worse_below=-1.0, seed=seed), plan)
        lost = max(0.0, (-1.0 - found.least_mean_logprob)) / 2
        num_missed += -0.5 * lost < -plan.margin
    assert num_missed <= 33  # 200 · 0.1 and three standard errors


def test_copies_of_a_conversation_are_one_observation():
    answers = rows(12, worse_below=-9.0)
    copies = [row for row in answers for _ in range(100)]
    with pytest.raises(ArtifactError, match="too few judged prompts"):
        fit_threshold(copies, Plan())


def test_no_prompts_at_all_are_too_few():
    with pytest.raises(ArtifactError, match="too few judged prompts"):
        fit_threshold([], Plan())
