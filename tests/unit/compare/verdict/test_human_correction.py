import numpy as np
import pytest

from compare.verdict.checks import LEAST_HUMAN_AGREEMENT
from compare.verdict.human_correction import human_corrected_win_rate
from potstill.errors import PotstillError
from potstill.verdict.outcome import Plan


def test_a_judge_at_the_least_agreement_sees_twice_the_margin_as_the_margin():
    rng, plan = np.random.default_rng(0), Plan()
    truth = rng.random(200_000) < 0.5 - 2 * plan.margin
    seen = np.where(rng.random(len(truth)) < LEAST_HUMAN_AGREEMENT, truth, ~truth)
    assert seen.mean() == pytest.approx(plan.win_rate_threshold, abs=0.005)


def votes_and_judge(rng, num_pairs, num_votes, bias=0.15):
    """People prefer the student in 45 % of pairs; the judge follows them, but flatters it."""
    human = (rng.random(num_pairs) < 0.45).astype(float)
    judge = np.where(rng.random(num_pairs) < 0.7, human, (rng.random(num_pairs) < 0.5 + bias) * 1.0)
    return judge[num_votes:], judge[:num_votes], human[:num_votes]


def test_corrected_bounds_cover_peoples_rate_whatever_the_judges_bias():
    rng = np.random.default_rng(1)
    covered, widths, biased = [], [], []
    for _ in range(600):
        without, judged, human = votes_and_judge(rng, 600, 100, bias=0.4)
        found = human_corrected_win_rate(without, judged, human, alpha=0.05)
        covered.append((found.lower <= 0.45, found.upper >= 0.45))
        widths.append((found.standard_error, human.std(ddof=1) / len(human) ** 0.5))
        biased.append(without.mean())
    # Standard error of a share of 0.95 in 600 runs: 0.009.
    assert np.mean(covered, axis=0) == pytest.approx(0.95, abs=0.03)
    with_judge, by_votes_alone = np.mean(widths, axis=0)
    assert with_judge < 0.85 * by_votes_alone
    assert np.mean(biased) > 0.5, "the judge alone would have passed the student"


def test_correction_is_the_papers_by_hand():
    rng = np.random.default_rng(2)
    without, judged, human = votes_and_judge(rng, 400, 80)
    found = human_corrected_win_rate(without, judged, human, alpha=0.05)
    everyone = np.concatenate([judged, without])
    weight = np.cov(human, judged)[0, 1] / ((1 + 80 / 320) * everyone.var(ddof=1))
    assert 0 < weight < 1
    assert found.judge_weight == pytest.approx(weight)
    assert found.rate == pytest.approx(
        human.mean() + weight * (without.mean() - judged.mean()), abs=1e-12
    )


def test_judge_that_says_nothing_is_left_out():
    human = np.tile([0.0, 1.0], 20)
    found = human_corrected_win_rate(np.full(100, 0.5), np.full(40, 0.5), human, alpha=0.05)
    assert (found.judge_weight, found.rate) == (0.0, 0.5)


@pytest.mark.parametrize(("num_votes", "num_without"), [(19, 100), (30, 1)])
def test_too_few_votes_correct_nothing(num_votes, num_without):
    with pytest.raises(PotstillError, match="too few votes"):
        human_corrected_win_rate(
            np.zeros(num_without), np.zeros(num_votes), np.zeros(num_votes), alpha=0.05
        )
