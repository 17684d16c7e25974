"""The comparisons of a run: what earlier ones leave to later ones."""

import json

import pytest

from compare.comparison import read_report
from compare.config import CompareConfig
from compare.report.summary import verdict_sentences
from compare.verdict.registration import read_ledger, record
from potstill.errors import ArtifactError
from potstill.task.answers import Answer
from potstill.task.metrics.config import ExactConfig, JsonConfig
from potstill.task.task import Task
from potstill.verdict.outcome import Outcome

from ..judging import answer, decided, question

EXACT = (ExactConfig(),)


@pytest.fixture
def compare(tmp_path):
    """Compare a student that has every fifth answer of its teacher wrong, and the reverse."""
    number_of = iter(range(100))

    def compare(num_prompts, *, metrics=EXACT, models="a", settings="s", num_bad=0):
        known = Answer(text="yes")
        questions = [question(n, known=known) for n in range(num_prompts)]
        answers = []
        for n in range(num_prompts):
            student = "no" if n < num_bad or n % 5 == 0 else "yes"
            answers.append(answer("student", n, student))
            answers.append(answer("teacher", n, "no" if n % 5 == 1 else "yes"))
        time = f"2026-11-29T0{next(number_of)}:00:00+00:00"
        ledger = read_ledger(tmp_path, time, models, settings)
        config = CompareConfig(temperature=0.0, verdict={"margin": 0.1})
        task = Task(metrics=metrics)
        found = decided(tmp_path / time, config, questions, answers, task, ledger).verdict
        verdict = found.model_copy(update={"registered_at": time})
        record(verdict, ledger, tmp_path)
        return verdict

    return compare


def test_prompts_that_are_added_are_tested_at_every_look_together(compare, tmp_path):
    first = compare(60)
    assert (first.outcome, first.basis) == (Outcome.INCONCLUSIVE, "first")
    assert first.level == pytest.approx(0.04)
    assert "92 % interval: two one-sided 96 % bounds" in first.reason
    further = first.decider.further_prompts
    assert f"about {further:,} further prompts, added to these, would decide" in first.reason
    second = compare(60 + further)
    assert (second.outcome, second.basis) == (Outcome.PASS, "followed")
    assert second.level == pytest.approx(0.045)
    assert "each bound holds at all comparisons together with probability 0.955" in second.reason
    assert second.power_at_parity is None
    assert second.decider.estimate.value == pytest.approx(0, abs=0.02)
    *_, earlier, claim = verdict_sentences(second)
    assert "Comparison 2 of this student; earlier: INCONCLUSIVE (exact, " in earlier
    assert "bets on each prompt added since" in claim
    rows = [json.loads(row) for row in (tmp_path / "comparisons.jsonl").read_text().splitlines()]
    assert [len(row["values"]) for row in rows] == [60, further]
    assert rows[0]["values"][0] == ["p0", 1, -1.0, -1.0]


def test_the_same_prompts_again_bring_no_evidence(compare):
    bounds = [compare(100).decider.estimate for _ in range(3)]
    assert bounds[1].lower == pytest.approx(bounds[2].lower)
    assert bounds[1].lower < bounds[0].lower + 0.01


def test_scores_of_prompts_that_were_counted_cannot_be_drawn_again(compare):
    compare(200, num_bad=190)
    again = compare(200)
    assert again.outcome is Outcome.FAIL
    assert again.decider.estimate.value < -0.7


@pytest.mark.parametrize(
    ("changed", "level"),
    [
        ({"metrics": (JsonConfig(),)}, 0.004),
        ({"settings": "other"}, 0.004),
        ({"models": "another student"}, 0.04),
    ],
)
def test_another_judge_has_what_is_left_and_another_student_all(compare, changed, level):
    compare(100)
    found = compare(100, **changed)
    assert (found.basis, found.level) == ("first", pytest.approx(level))
    assert len(found.earlier) == (0 if "models" in changed else 1)
    assert compare(120).basis == "followed"


def test_a_run_of_an_earlier_version_has_used_its_alpha(compare, tmp_path):
    row = {"registered_at": "2026", "judges": ["exact"], "num_prompts": 9, "margin": 0.05}
    (tmp_path / "comparisons.jsonl").write_text(json.dumps(row | {"outcome": "FAIL"}) + "\n")
    found = compare(100)
    assert (found.basis, found.level) == ("first", pytest.approx(0.004))
    *_, earlier, claim = verdict_sentences(found)
    assert "earlier: FAIL (exact, 9 prompts" in earlier
    assert "Those of earlier versions had all of alpha" in claim


@pytest.mark.parametrize("line", ['{"registered_at": "2026"', '{"registered_at": "2026"}', "[1]"])
def test_a_damaged_line_is_named(compare, tmp_path, line):
    compare(20)
    path = tmp_path / "comparisons.jsonl"
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(ArtifactError, match="a line of a file of comparisons") as raised:
        compare(30)
    assert raised.value.where == f"{path}:2"
    assert "restore the line" in raised.value.hint


def test_values_stay_out_of_the_report(compare, report, tmp_path):
    compare(50)
    path = tmp_path / "report.json"
    path.write_text(report.model_copy(update={"verdict": compare(60)}).model_dump_json())
    assert '"counted"' not in path.read_text()
    assert '"values":[]' in path.read_text()
    assert read_report(path).verdict.basis == "followed"
