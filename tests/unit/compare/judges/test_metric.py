"""The task's metrics as judges, with real metrics and known answers."""

import json

import pytest

from compare.config import CompareConfig
from compare.judges.metric import metric_judges
from potstill.task.answers import Answer, Score, ToolCall
from potstill.task.metrics.config import FunctionConfig, JsonConfig, LabelConfig, ToolCallsConfig
from potstill.task.task import Task
from potstill.verdict.outcome import Outcome

from ..judging import answer, decided, question

TEAMS = ("cards", "cash")
LABEL = LabelConfig(field="team", labels=TEAMS)


def team(name):
    return json.dumps({"team": name, "reply": "Hello."})


def judged(tmp_path, metrics, texts, known, *, judges=(), refused=(), calls=None):
    """Decide on prompts 0, 1, ...; `texts` has the student's and the teacher's answer to each."""
    task = Task(metrics=metrics)
    questions = [
        question(number, known=known(number), slices={"label": TEAMS[number % 2]})
        for number in range(len(texts))
    ]
    answers = []
    for number, (student, teacher) in enumerate(texts):
        reason = "error" if number in refused else "stop"
        said = answer("student", number, student, reason=reason)
        answers += [said.model_copy(update=calls(number)) if calls else said]
        answers += [answer("teacher", number, teacher)]
    config = CompareConfig(judges=judges, temperature=0.0)
    return decided(tmp_path, config, questions, answers, task)


def known_team(number):
    return Answer(text=team(TEAMS[number % 2]))


def test_first_metric_decides_and_needs_no_assay(tmp_path):
    texts = [(team(TEAMS[n % 2]), team(TEAMS[n % 2 if n % 4 else 1])) for n in range(40)]
    found = judged(
        tmp_path,
        (LABEL, JsonConfig()),
        texts,
        known_team,
        judges=({"kind": "reference", "reference": "teacher"},),
    ).verdict
    assert (found.outcome, found.decided_by) == (Outcome.PASS, "label")
    label, valid, agreement, _ = found.judges
    assert [one.decides for one in found.judges] == [True, False, False, False]
    assert (label.checks, label.controls) == ((), ())
    assert (label.estimate.student_mean, label.estimate.teacher_mean) == (1.0, 0.75)
    assert label.estimate.threshold == -0.05
    assert (label.discordance.only_student, label.discordance.only_teacher) == (10, 0)
    assert valid.estimate.student_mean == valid.estimate.teacher_mean == 1.0
    assert (agreement.name, agreement.outcome) == ("label: agreement with the teacher", None)
    assert agreement.estimate.student_mean == 0.75
    assert agreement.reason.endswith("similarity decides nothing")
    assert "PASS needs" not in agreement.reason


@pytest.mark.parametrize(("num_prompts", "power"), [(62, 0.0), (63, 1.0)])
def test_no_student_can_pass_where_ties_alone_do_not(tmp_path, num_prompts, power):
    """Without a difference there is no spread, which is no certainty."""
    texts = [(team(TEAMS[n % 2]),) * 2 for n in range(num_prompts)]
    found = judged(tmp_path, (LABEL,), texts, known_team).verdict
    assert (found.outcome is Outcome.PASS, found.power_at_parity) == (bool(power), power)


def test_labels_have_macro_f1_a_confusion_matrix_and_slices(tmp_path):
    texts = [(team("cards"), team(TEAMS[n % 2])) for n in range(20)]
    (report, _) = judged(tmp_path, (LABEL,), texts, known_team).verdict.judges
    assert report.outcome is Outcome.FAIL
    assert report.labels["student"].counts == ((10, 0, 0), (10, 0, 0))
    assert report.labels["teacher"].macro_f1 == 1.0
    assert report.labels["student"].macro_f1 == pytest.approx((2 * 10 / 30 + 0) / 2)
    assert {one.value for one in report.slices if one.key == "label"} == set(TEAMS)
    assert report.worst_slice.value == "cash"


def test_what_is_wrong_is_counted_by_side(tmp_path):
    texts = [("cards", team(TEAMS[n % 2])) for n in range(6)]
    (report, _) = judged(tmp_path, (LABEL,), texts, known_team).verdict.judges
    assert report.problems == {"student": {"no label in the answer": 6}, "teacher": {}}


class Raising:
    """A metric that cannot read some answers."""

    name, needs_known = "raising", False

    def score(self, answer, _item):
        if answer.text == "b":
            return Score(value=1.0)
        raise ValueError(f"cannot read {answer.text}")


def test_a_metric_that_raises_scores_zero_and_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("potstill.task.task.make_metrics", lambda *_: [Raising()])
    found = judged(tmp_path, (JsonConfig(),), [("a", "b")] * 6, known_team)
    assert found.report.problems["student"] == {"the metric raised ValueError": 6}
    assert found.report.estimate.student_mean == 0.0
    ((_, first), *_) = found.opinions[0].judged_pairs
    assert first.student_problem == "the metric raised ValueError: cannot read a"


def test_a_metric_that_raises_on_all_answers_passes_no_student(tmp_path, monkeypatch):
    """All would be ties, and ties pass."""
    monkeypatch.setattr("potstill.task.task.make_metrics", lambda *_: [Raising()])
    found = judged(tmp_path, (JsonConfig(),), [("a", "c")] * 200, known_team)
    assert found.verdict.outcome is Outcome.INVALID_JUDGE
    assert (found.report.reason, found.report.num_failed) == (
        "nothing was judged: the metric raised ValueError: cannot read a; on both answers (200 "
        "pairs)",
        200,
    )


def test_a_known_answer_that_nobody_can_match_is_left_out(tmp_path):
    """Such pairs would be ties, which halve the difference of the others."""

    def known(number):
        return Answer(text=team("cards" if number % 2 else "nobody's"))

    texts = [(team("cash"), team("cards"))] * 40
    (found, *_) = judged(tmp_path, (LABEL,), texts, known).verdict.judges
    assert (found.estimate.value, found.estimate.num_pairs, found.num_failed) == (-1.0, 20, 20)
    assert (found.estimate.student_mean, found.estimate.teacher_mean) == (0.0, 1.0)
    (found, *_) = judged(tmp_path / "all", (LABEL,), texts[:4], lambda _: known(0)).verdict.judges
    assert found.outcome is Outcome.INVALID_JUDGE
    assert "the known answer itself scores 0: no label in the known answer" in found.reason


def test_a_users_function_is_a_judge(tmp_path):
    metric = FunctionConfig(function="tests.unit.compare.judging:longer_is_better")
    found = judged(tmp_path, (metric,), [("abcd", "ab"), ("a", "abcd")] * 4, known_team)
    assert found.report.estimate.value == pytest.approx((2 - 3) / 4 / 2)
    assert found.report.discordance is None


def test_calls_are_scored_and_no_answer_is_no_right_answer(tmp_path):
    balance = ToolCall(name="balance", arguments='{"account": "savings"}')
    message = Answer(tool_calls=(balance,)).to_message()

    def known(number):
        return Answer(tool_calls=(balance,)) if number % 2 else Answer(text="Hello!")

    found = judged(
        tmp_path,
        (ToolCallsConfig(),),
        [("", "Hello!")] * 8,
        known,
        refused={0},
        calls=lambda n: {"tool_calls": message.tool_calls if n % 2 else None},
    )
    report = found.verdict.judges[0]
    assert report.estimate.student_mean == pytest.approx(7 / 8), "a refusal is not 'no call'"
    assert report.problems["student"] == {"no answer": 1}
    assert report.problems["teacher"] == {"other calls": 4}
    assert report.labels["student"].labels == ("(no call)", "balance")
    assert found.panel.pairs[1].student == 'balance({"account": "savings"})', "people can read it"


def test_each_metric_is_one_judge_and_one_of_agreement_where_answers_are_known():
    found = metric_judges(Task(metrics=(LABEL, JsonConfig(name="valid"))))
    assert [(one.name, one.known) for one in found] == [
        ("label", "reference"),
        ("valid", "reference"),
        ("label: agreement with the teacher", "teacher"),
    ]
