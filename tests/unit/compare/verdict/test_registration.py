"""The comparisons of a run: what earlier ones leave to later ones."""

import json

import pytest

from compare.answers.questions import messages_id
from compare.comparison import read_report
from compare.config import CompareConfig
from compare.report.summary import verdict_sentences
from compare.verdict.following import Standing, counted
from compare.verdict.registration import Ledger, last_comparison, read_ledger, record
from compare.verdict.results import Attempt
from potstill.errors import ArtifactError
from potstill.task.answers import Answer
from potstill.task.metrics.config import ExactConfig, JsonConfig
from potstill.task.task import Task
from potstill.verdict.outcome import Outcome

from ..judging import answer, decided, question

EXACT = (ExactConfig(),)
CHANGES = ({}, {"metrics": (JsonConfig(),)}, {"models": "b"}, {"settings": "t"})


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
    assert "92% interval: two one-sided 96% bounds" in first.reason
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
    assert rows[0]["values"][0] == ["p0", 1, -1.0, -1.0, [messages_id(question(0).messages)]]


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


def test_votes_and_labels_are_asked_for_of_the_last_comparison(compare, tmp_path):
    assert last_comparison(tmp_path) is None
    names = [compare(20, **changes) and last_comparison(tmp_path) for changes in CHANGES]
    assert names[0] == names[1], "more prompts, or another judge"
    assert len({*names}) == 3, "another student, or other settings"


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


def attempt(number, **changes):
    common = {"num_prompts": 300, "margin": 0.05, "outcome": Outcome.INCONCLUSIVE, "models": "a"}
    own = {"line": "x", "judges": ("llm",), "was_tested": False, "was_shown": True}
    return Attempt(registered_at=str(number), **common | own | changes)


def test_answers_that_a_judge_liked_best_of_many_are_not_voted_on_as_if_they_were_the_first():
    """Twenty seeds, and votes on the answers that the judge liked best: 0.24 passed at 0.45."""
    seeds = [attempt(n, line=f"seed {n}", answers=f"answers {n}") for n in range(20)]
    ledger = Ledger(tuple(seeds), "a", "s")
    levels = [
        ledger.standing(f"seed {n}", 0.05, f"answers {n}").level_of_votes(1) for n in range(20)
    ]
    assert levels[:2] == pytest.approx([0.04, 0.004])
    assert sum(levels) < 0.05


def test_votes_on_the_same_answers_cost_nothing_before_they_are_counted():
    ledger = Ledger((attempt(0, answers="n"), attempt(1, answers="n")), "a", "s")
    standing = ledger.standing("x", 0.05, "n")
    assert (standing.follows, standing.num_before) == (False, 0)
    assert standing.level_of_votes(1) == pytest.approx(0.04)
    assert ledger.shared_level(0.05, "n") == pytest.approx(0.04)


def test_another_judge_of_the_same_answers_costs_nothing_before_votes_are_counted():
    """Such as the teacher, which judges where none is configured. Votes decide whatever it says."""
    looks = (attempt(0, line="teacher", answers="n"), attempt(1, answers="n"))
    assert Ledger(looks[:1], "a", "s").standing("x", 0.05, "n").first_level == pytest.approx(0.04)
    assert Ledger(looks, "a", "s").standing("x", 0.05, "n").first_level == pytest.approx(0.04)
    assert Ledger(looks, "a", "s").standing("x", 0.05, "m").first_level == pytest.approx(0.04)
    other = Ledger(looks[:1], "a", "s").standing("x", 0.05, "m")
    assert other.first_level == pytest.approx(0.004), "chosen by what the teacher said of others"
    reported = (attempt(0, line="teacher", answers="n", num_others=3),)
    level = Ledger(reported, "a", "s").standing("x", 0.05, "n").first_level
    assert level == pytest.approx(0.004 / 3)


def test_prompts_that_a_judge_asked_for_leave_votes_what_is_kept_for_later():
    """The number of prompts was chosen by the judge's scores of fewer."""
    looks = tuple(attempt(n, answers=f"{n}00 prompts") for n in range(1, 4))
    first, second, last = (
        Ledger(looks, "a", "s").standing("x", 0.05, f"{n}00 prompts").level_of_votes(1)
        for n in (1, 2, 3)
    )
    assert first == pytest.approx(0.04 + 0.1 * 0.05 / 4)
    assert second == last == pytest.approx(0.1 * 0.05 / 4)
    tested = (attempt(0, answers="n", was_tested=True, share_voted=0.5),)
    level = Ledger(tested, "a", "s").standing("x", 0.05, "n").level_of_votes(1)
    assert level == pytest.approx(0.04 * 0.5 + 0.1 * 0.05 / 2)


def test_requirements_beside_the_judge_share_alpha_over_other_answers():
    """Nine looks at one more metric of the gate, each at 0.04, passed 0.11 at the margin."""
    looks = [attempt(n, answers=f"{n}", was_tested=True) for n in range(9)]
    levels = [Ledger(tuple(looks[:n]), "a", "s").shared_level(0.05, f"{n}") for n in range(9)]
    assert levels[:3] == pytest.approx([0.04, 0.0025, 0.00125])
    assert sum(levels) < 0.05
    assert Ledger(tuple(looks), "a", "s").shared_level(0.05, "0") == pytest.approx(0.04)
    shown = Ledger((attempt(0, answers="0", was_shown=False),), "a", "s")
    assert shown.shared_level(0.05, "1") == pytest.approx(0.0025), "its gate was in the report"


def test_a_metric_that_is_chosen_among_many_that_were_reported_has_its_part(compare):
    """Of twenty metrics at the margin one passed with 0.095, each at a tenth of the first."""
    several = tuple(ExactConfig(name=f"exact {n}") for n in range(5))
    first = compare(100, metrics=several)
    assert first.level == pytest.approx(0.04)
    found = compare(100, metrics=several[::-1])
    assert found.level == pytest.approx(0.004 / 4)


def test_reported_metrics_are_tested_like_the_gate(compare):
    several = (ExactConfig(), JsonConfig())
    levels = [compare(number, metrics=several).judges[1].level for number in (60, 80, 80)]
    assert levels == pytest.approx([0.04, 0.0025, 0.0025])


def test_a_prompt_under_another_name_brings_no_evidence():
    """Else the same answers could be bet on until they pass."""
    first = counted([1.0, 0.5], ["a", "b"], ["one", "two"], (0.0, 1.0))
    standing = Standing(0.05, batches=(first,))
    again = counted([1.0, 0.5, 1.0], ["x", "y", "z"], ["one", "two", "three"], (0.0, 1.0))
    assert [one.cluster for one in standing.new(again)] == ["z"]


def test_votes_that_a_reported_judge_gains_are_a_look_each():
    looks = tuple(attempt(n, answers="same", was_tested=True) for n in range(2))
    levels = [Ledger(looks[:n], "a", "s").shared_level(0.05, "") for n in range(3)]
    assert levels == pytest.approx([0.04, 0.0025, 0.00125])
