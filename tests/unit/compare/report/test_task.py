"""The task's part of the report, on the page too."""

import pytest

from compare.candidates.rows import Bounded, CandidateRow
from compare.judges.protocol import Judgment
from compare.report import task
from compare.report.page import render_page
from compare.verdict.figures import Discordance, Estimate
from compare.verdict.results import JudgeReport
from potstill.task.answers import Score
from potstill.task.metrics.label import label_report
from potstill.verdict.outcome import Outcome

from ..conftest import example


def bounded(value, spread=0.04):
    return Bounded(value=value, lower=value - spread, upper=value + spread)


def row(key, name, kind, value, **changes):
    ahead = None if key == "student" else bounded(0.87 - value)
    values = {"metric": bounded(value), "student_ahead": ahead, "num_prompts": 300, "model": None}
    return CandidateRow(**{"key": key, "name": name, "kind": kind} | values | changes)


ROWS = (
    row(
        "teacher", "teacher with 50 examples", "teacher", 0.85, is_compared=True, num_examples=50,
        prompt_tokens=912.0, bytes=1_117_000_000, seconds=2.4, watt_hours=5.3,
    ),
    row(
        "student", "student", "student", 0.87, is_compared=True, num_examples=0,
        prompt_tokens=31.0, bytes=101_000_000, seconds=0.3, watt_hours=0.66, dollars=0.021,
    ),
    row("known_answers", "same student, known answers alone", "student", 0.62, num_examples=50),
    row("linear_classifier", "linear classifier", "none", 0.57, num_examples=50, seconds=1e-4),
)  # fmt: skip


def estimate(scale="difference", **changes):
    values = {
        "value": 0.02,
        "lower": -0.01,
        "upper": 0.05,
        "threshold": -0.05,
        "standard_error": 0.018,
        "num_pairs": 600,
        "num_clusters": 590,
        "tie_share": 0.8,
        "student_mean": 0.87,
        "teacher_mean": 0.85,
    }
    return Estimate(scale=scale, **values | changes)


def judges():
    found = [("cards", "cards"), ("cards", "cash"), ("cash", None)]
    labels = label_report([Score(value=0.0, expected=one, found=two) for one, two in found])
    common = {"kind": "metric", "model": None, "reason": "so"}
    decider = JudgeReport(
        name="team",
        claim="quality",
        decides=True,
        outcome=Outcome.PASS,
        estimate=estimate(),
        discordance=Discordance(only_student=70, only_teacher=58, p_exact=0.33),
        labels={"student": labels, "teacher": labels},
        problems={"student": {"no label in the answer": 3}, "teacher": {"not JSON": 41}},
        **common,
    )
    agreement = JudgeReport(
        name="team: agreement with the teacher",
        claim="similarity",
        decides=False,
        outcome=None,
        estimate=estimate(student_mean=0.79, teacher_mean=1.0),
        **common,
    )
    return decider, agreement


@pytest.fixture
def of_task(make_report):
    """Return the report of a student that passes on a task of labels."""

    def judged(student, teacher):
        return Judgment(
            score=0.5 + (student - teacher) / 2,
            student_value=student,
            teacher_value=teacher,
            expected="cards",
            student_found="cards",
            teacher_found=None,
            teacher_problem="not JSON: <b>",
        )

    return make_report(
        candidates=ROWS,
        examples=(
            example("{}", "Of course!", "My <i>card</i>?", judgments={"team": judged(1.0, 0.0)}),
            example("{}", "{}", "Both right", judgments={"team": judged(1.0, 1.0)}),
        ),
        outcome=Outcome.PASS,
        decided_by="team",
        judges=judges(),
    )


def test_report_begins_with_the_task(of_task):
    assert task.headline(of_task) == (
        "PASS: 0.87 right, the teacher 0.85 (difference +0.02, 90% interval \N{MINUS SIGN}0.01 to "
        "+0.05, "
        "margin 0.05), 11 times smaller, 8.0 times as fast, $0.021 and an estimated 0.66 Wh "
        "a thousand answers."
    )
    page = render_page(of_task)
    assert page.index("PASS: 0.87 right") < page.index("Who can do the task")
    assert page.index("Who can do the task") < page.index("KL to the teacher, step by step")


def test_sentences_say_what_the_teacher_brought_and_what_is_saved(of_task):
    teacher, tokens, agreement, energy = task.sentences(of_task)
    assert teacher == (
        "Training on the teacher's answers: +25.0 points over the same student trained on the 50 "
        "known answers alone (90% interval +21.0 to +29.0, 300 prompts)."
    )
    assert "31 tokens on average, the teacher's 912: 97% fewer" in tokens
    assert "agree with the teacher's on 79% of the prompts" in agreement
    assert "watts_per_cpu" in energy


def test_page_has_candidates_matrix_problems_and_disagreements(of_task):
    page = render_page(of_task)
    for candidate in ROWS:
        assert candidate.name in page
    assert "+0.300 [+0.260, +0.340]" in page, "the student is ahead of the linear classifier"
    assert "macro-F1" in page
    assert "no label in the answer" in page
    (shown,) = task.disagreements(of_task)
    assert shown.messages[-1].content == "My <i>card</i>?"
    assert "<i>card" not in page, "texts are untrusted"
    assert "not JSON: <b>" not in page


def test_energy_that_was_measured_is_no_estimate(of_task):
    rows = [one.model_copy(update={"is_energy_measured": True}) for one in ROWS]
    measured = of_task.model_copy(update={"candidates": tuple(rows)})
    assert "and 0.66 Wh a thousand" in task.headline(measured)
    assert len(task.sentences(measured)) == 3


def test_without_a_task_nothing_is_added(report):
    assert task.headline(report) is None
    assert task.sentences(report) == task.disagreements(report) == []
    assert "Who can do the task" not in render_page(report)
