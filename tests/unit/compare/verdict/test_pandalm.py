"""The benchmark on public human judgments, with rows in its form."""

import json

import numpy as np
import pytest

from benchmarks.verdict.pandalm import by_judge, by_people, outcome, read_pairs, with_votes


def rows(number: int, said: tuple[int, int, int]) -> list[dict]:
    people = {f"annotator{place}": one for place, one in enumerate(said, start=1)}
    return [{"idx": n, "cmp_key": "a-7b_b-7b", **people} for n in range(number)]


def test_each_pair_of_models_is_read_in_both_directions(tmp_path):
    path, judge = tmp_path / "people.json", tmp_path / "judge.json"
    path.write_text(json.dumps(rows(60, (1, 1, 2))))
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
