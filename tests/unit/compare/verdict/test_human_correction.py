import json

import numpy as np
import pytest

from benchmarks.verdict._criteria import JUDGES as CRITERIA_JUDGES
from benchmarks.verdict._criteria import Labeled
from benchmarks.verdict._judges import JUDGES, Comparison
from benchmarks.verdict.pandalm import by_judge, by_people, outcome, read_pairs, with_votes
from compare.verdict.human_correction import human_corrected
from compare.verdict.intervals import mean_interval
from potstill.errors import PotstillError

ALPHA, THRESHOLD = 0.05, 0.45


def corrected(judge, human, num_votes):
    votes = [*human[:num_votes], *[None] * (len(human) - num_votes)]
    return human_corrected(judge, votes, alpha=ALPHA)


@pytest.mark.parametrize("name", ["prefers the student's style", "60% right", "always ties"])
def test_no_judge_passes_a_worse_student_more_often_than_alpha(name):
    rng = np.random.default_rng(1)
    found = [
        Comparison(num_pairs=619, num_votes=100, rate=0.45, tie_share=0.3).corrected(
            JUDGES[name], rng
        )
        for _ in range(150)
    ]
    # Standard error 0.018.
    assert np.mean([one.p_at_most(THRESHOLD) < ALPHA for one in found]) <= 0.05 + 0.04


@pytest.mark.parametrize(
    "name", ["right on 75%", "lenient with the student", "always yes to the student"]
)
def test_no_judge_of_criteria_passes_a_worse_student_more_often_than_alpha(name):
    """At a margin of 0.2, at which 25 labeled prompts let a student at parity pass."""
    rng = np.random.default_rng(4)

    def passed(difference, runs):
        setting = Labeled(num_pairs=155, num_labeled=25, difference=difference)
        found = [setting.corrected(CRITERIA_JUDGES[name], rng) for _ in range(runs)]
        return np.mean([one.p_at_most(0.4) < ALPHA for one in found])

    assert passed(-0.2, 100) <= 0.05 + 0.045  # Standard error 0.022.
    assert passed(0.0, 20) >= 0.6


def test_a_good_judge_adds_to_the_votes():
    rng = np.random.default_rng(2)
    setting = Comparison(num_pairs=2000, num_votes=100, rate=0.5, tie_share=0.3)
    good = [setting.corrected(JUDGES["80% right"], rng).standard_error for _ in range(20)]
    none = [setting.corrected(JUDGES["always ties"], rng).standard_error for _ in range(20)]
    assert np.mean(good) < 0.9 * np.mean(none)


def test_with_many_votes_the_correction_is_the_papers_by_hand():
    rng = np.random.default_rng(3)
    human = rng.choice([0.0, 0.5, 1.0], 20_000)
    judge = np.where(rng.random(20_000) < 0.7, human, rng.choice([0.0, 0.5, 1.0], 20_000))
    found = corrected(judge, human, 4000)
    best = np.cov(human[:4000], judge[:4000])[0, 1] / ((1 + 4000 / 16_000) * judge.var(ddof=1))
    weight = 0.55  # Of 21 weights.
    assert weight == pytest.approx(best, abs=0.025)
    by_hand = weight * judge.mean() + (human[:4000] - weight * judge[:4000]).mean()
    assert found.mean == pytest.approx(by_hand)
    error = weight**2 * judge[4000:].var() / 16_000 + (human - weight * judge)[:4000].var() / 4000
    assert found.standard_error == pytest.approx(error**0.5, rel=0.05)


def test_with_few_votes_a_judge_that_is_right_has_less_weight_than_its_variance_says():
    """Fifty votes may have missed an error in 6% of the pairs, whatever the judge is."""
    human = np.tile([0.0, 1.0, 0.5, 0.5], 50)
    found = corrected(human, human, 50)
    whole = mean_interval(human[:50], alpha=ALPHA)
    assert whole.lower <= found.lower < found.mean == pytest.approx(0.5, abs=0.02)


def test_with_a_vote_on_every_pair_the_judge_is_left_out():
    human = np.tile([0.0, 1.0, 1.0], 20)
    found = corrected(1 - human, human, 60)
    assert found.mean == pytest.approx(2 / 3)
    assert found.bounds == (0.0, 1.0)


def test_equal_answers_need_no_vote_and_move_no_estimate_of_the_others():
    """Half of the pairs are equal answers, and people prefer the teacher in most of the others."""
    human = np.tile([0.0, 0.0, 1.0], 40)
    votes = [*human[:60], *[None] * 60]
    others = human_corrected([0.5] * 120, votes, alpha=ALPHA)
    judge = [0.5] * 240
    found = human_corrected(
        judge, [*votes, *[None] * 120], alpha=ALPHA, known=[False] * 120 + [True] * 120
    )
    assert found.mean == pytest.approx((others.mean + 0.5) / 2)
    careless = human_corrected(judge, [*votes, *[None] * 120], alpha=ALPHA)
    assert careless.mean == pytest.approx(others.mean) != found.mean


@pytest.mark.parametrize(
    ("num_judged", "num_votes", "message"),
    [(20, 1, "too few votes"), (19, 10, "not one vote")],
)
def test_too_few_votes_or_scores_correct_nothing(num_judged, num_votes, message):
    votes = [*[0.0] * num_votes, *[None] * (20 - num_votes)]
    with pytest.raises(PotstillError, match=message):
        human_corrected([0.5] * num_judged, votes, alpha=ALPHA)


def public_rows(number: int, said: tuple[int, int, int]) -> list[dict]:
    people = {f"annotator{place}": one for place, one in enumerate(said, start=1)}
    return [{"idx": n, "cmp_key": "a-7b_b-7b", **people} for n in range(number)]


def test_public_judgments_are_read_in_both_directions(tmp_path):
    path, judge = tmp_path / "people.json", tmp_path / "judge.json"
    path.write_text(json.dumps(public_rows(60, (1, 1, 2))))
    said = [{"idx": n, "a_result": "garbage" if n == 0 else "Tie"} for n in range(60)]
    judge.write_text(json.dumps(said))
    found = read_pairs(path, judge)
    assert found.keys() == {("a-7b", "b-7b"), ("b-7b", "a-7b")}
    better, worse = found["a-7b", "b-7b"], found["b-7b", "a-7b"]
    assert by_people(better).mean == pytest.approx(2 / 3)
    assert by_people(worse).mean == pytest.approx(1 / 3)
    assert (outcome(by_people(better)), outcome(by_people(worse))) == ("PASS", "FAIL")
    assert (by_judge(worse).mean, by_judge(worse).num_unread) == (0.5, 1)
    assert outcome(by_judge(worse)) == "PASS", "a judge that ties sees no difference"
    drawn = {with_votes(worse, np.random.default_rng(seed)) for seed in range(6)}
    assert drawn == {"FAIL", "PASS"}, "by the person whose votes are drawn"


def test_what_many_comparisons_leave_of_alpha_is_still_an_error_rate():
    """Each judge or setting leaves a tenth to the next: the eighteenth 5e-19."""
    rng = np.random.default_rng(3)
    human = rng.choice([0.0, 0.5, 1.0], 200)
    found = human_corrected(human, list(human), alpha=5e-19)
    assert 0.0 < found.lower < human_corrected(human, list(human), alpha=0.05).lower
    half = [one if n % 2 else None for n, one in enumerate(human)]
    assert human_corrected(human, half, alpha=5e-19).lower < found.mean
