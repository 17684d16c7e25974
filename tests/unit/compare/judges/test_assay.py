"""Graded controls: shuffled among the real pairs, and sets of them whose win rate is known."""

import random
from functools import partial

import pytest

from compare.judges.assay import LABEL, work
from compare.judges.controls import build_controls
from compare.judges.protocol import Judgment, Pair, Usage
from compare.verdict.health import health_of, is_sound_so_far
from potstill.verdict.outcome import Plan

from ..judging import question, right_answer, worth

PLAN = Plan()
NUM_PROMPTS, NUM_PAIRS = 24, 60
UNTRAINED = "Number one is one, is one, is one."


class Reader:
    """A judge that sees two texts and errs in a share of pairs, else sees which is better."""

    name = kind = "reader"
    claim = "quality"
    model = None
    measures = False
    needs_assay = True
    blind_to = frozenset()

    def __init__(self, right=1.0, seed=0):
        self.calls, self.labels = [], []
        self._right, self._chance = right, random.Random(seed)

    def judge(self, pairs, label):
        self.calls.append([(pair.question.prompt_id, pair.student) for pair in pairs])
        self.labels.append(label)
        return [self._read(*sorted((pair.student, pair.teacher)), pair) for pair in pairs]

    def _read(self, first, second, pair):
        number = int(pair.question.prompt_id[1:])
        values = [worth(number, text) for text in (first, second)]
        better = first if values[0] > values[1] else second
        score = 0.5 if values[0] == values[1] else float(better == pair.student)
        if self._chance.random() > self._right:
            score = self._chance.choice([0.0, 0.5, 1.0])
        return Judgment(score=score)

    def usage(self):
        return Usage()


def controls():
    own = [Pair(question(n), 0, "", right_answer(n)) for n in range(NUM_PROMPTS)]
    others = [Pair(one.question, 0, right_answer(n, 1), one.teacher) for n, one in enumerate(own)]
    worse = [Pair(one.question, 0, UNTRAINED, one.teacher) for one in own]
    return build_controls(own, seed=0, others=others, known_worse=worse)


def pairs():
    return [Pair(question(n), 0, right_answer(n, 2), right_answer(n)) for n in range(NUM_PAIRS)]


def judged(judge, *, stop_early=True):
    return work(
        judge,
        pairs(),
        controls(),
        cluster_of=lambda pair: pair.question.prompt_id,
        is_sound=partial(is_sound_so_far, plan=PLAN),
        stop_early=stop_early,
        seed=3,
    )


def test_graded_controls_are_shuffled_among_the_real_pairs():
    judge = Reader()
    found = judged(judge, stop_early=False)
    mixed = judge.calls[-1]
    assert len(mixed) == NUM_PAIRS + 3 * NUM_PROMPTS
    real = {(pair.question.prompt_id, pair.student) for pair in pairs()}
    places = [place for place, one in enumerate(mixed) if one in real]
    assert len(places) == NUM_PAIRS
    assert min(places) < NUM_PROMPTS
    assert max(places) > NUM_PAIRS + 2 * NUM_PROMPTS
    assert sum(places) / len(places) == pytest.approx((len(mixed) - 1) / 2, abs=15)
    assert set(judge.labels) == {LABEL}
    graded = [one.name for one in found.controls if one.graded]
    assert graded == ["one error", "known worse model", "another answer of the teacher"]


def test_each_judgment_is_put_back_to_its_pair():
    found = judged(Reader(), stop_early=False)
    by_name = {one.name: {said.score for said in one.judgments} for one in found.controls}
    assert {one.score for one in found.judgments} == {0.5}
    assert by_name["another answer of the teacher"] == {0.5}
    assert by_name["known worse model"] == by_name["one error"] == {0.0}


def test_what_fails_a_plain_control_is_given_no_graded_one():
    judge = Reader(right=0.0)
    found = judged(judge)
    assert found.judgments is None
    assert all(one.judgments is None for one in found.controls if one.graded)
    assert not any(
        one in judge.calls[-1] for one in [("p0", UNTRAINED), ("p0", right_answer(0, 2))]
    )


def test_a_sound_judge_sees_the_sets_as_they_are():
    sensitivity = health_of(judged(Reader()), PLAN).sensitivity
    assert sensitivity.value == 1.0
    assert sensitivity.num_pairs == 2 * NUM_PROMPTS
    for one, rate in zip(sensitivity.sets, (0.45, 0.4), strict=True):
        assert one.true_rate == rate
        assert one.seen == pytest.approx(rate)
        assert one.lower < rate < one.upper


def test_a_judge_that_errs_sees_a_part_of_them():
    """It is right in 0.7 of pairs and random else: a win rate of 0.15, so 0.7 of a difference."""
    found = [
        health_of(judged(Reader(0.7, seed), stop_early=False), PLAN).sensitivity
        for seed in range(8)
    ]
    mean = sum(one.value for one in found) / len(found)
    assert mean == pytest.approx(0.7, abs=0.1)
    assert sum(one.lower < 0.7 for one in found) >= 7
    seen = [sum(one.sets[place].seen for one in found) / len(found) for place in (0, 1)]
    assert seen == pytest.approx([0.465, 0.43], abs=0.03)
    assert sum(one.sets[0].lower < 0.465 < one.sets[0].upper for one in found) >= 6
