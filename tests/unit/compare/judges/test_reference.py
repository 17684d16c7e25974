"""Judges that measure each answer: references and checks."""

import pytest
import sacrebleu

from compare.answers.questions import Check
from compare.config import CompareConfig
from compare.judge_config import CheckJudgeConfig, ReferenceJudgeConfig
from compare.judges.check import passes
from compare.judges.protocol import Pair
from compare.judges.reference import ReferenceJudge
from potstill.verdict.outcome import Outcome

from ..judging import answer, decided, question

REFERENCE = "The cat sat on the warm mat."


def test_metrics_are_their_libraries():
    from rouge_score.rouge_scorer import RougeScorer

    pair = Pair(question(1, reference=REFERENCE), 0, "A cat on a mat.", "The cat sat there.")
    (chrf,) = ReferenceJudge(ReferenceJudgeConfig(kind="reference")).judge([pair], "")
    (rouge,) = ReferenceJudge(ReferenceJudgeConfig(kind="reference", metric="rouge_l")).judge(
        [pair], ""
    )
    oracle = sacrebleu.sentence_chrf("A cat on a mat.", [REFERENCE]).score / 100
    assert chrf.student_value == pytest.approx(oracle)
    scorer = RougeScorer(["rougeL"])
    assert rouge.teacher_value == scorer.score(REFERENCE, "The cat sat there.")["rougeL"].fmeasure
    assert rouge.score == pytest.approx(0.5 + (rouge.student_value - rouge.teacher_value) / 2)


def test_nearness_to_the_teachers_words_is_no_quality():
    config = ReferenceJudgeConfig(kind="reference", reference="teacher")
    judge = ReferenceJudge(config)
    assert judge.claim == "similarity"
    (said,) = judge.judge([Pair(question(1), 0, "a", "b")], "")
    assert (said.score, said.failure) == (None, "the prompt has no reference")


@pytest.mark.parametrize(
    ("kind", "value", "text", "is_right"),
    [
        ("exact", "Forty two", "  forty  TWO\n", True),
        ("exact", "42", "It is 42.", False),
        ("regex", r"\b42\b", "It is 42.", True),
        ("regex", r"\b42\b", "It is 142.", False),
        ("regex", "paris", "Paris", False),
        ("regex", "(?i)paris", "Paris", True),
    ],
)
def test_checks(kind, value, text, is_right):
    assert passes(Check(**{kind: value}), text) is is_right


def measured(tmp_path, judges, texts, **fields):
    """Let judges compare answers to prompts 0, 1, ...; `texts` has the student's and teacher's."""
    config = CompareConfig(judges=judges, temperature=0.0)
    questions = [
        question(number, **{name: of(number) for name, of in fields.items()})
        for number in range(len(texts))
    ]
    answers = []
    for number, (student, teacher) in enumerate(texts):
        answers += [answer("student", number, student), answer("teacher", number, teacher)]
    return decided(tmp_path, config, questions, answers).verdict


def test_accuracy_decides_with_mcnemar(tmp_path):
    wrong = {1, 5, 9, 13, 17, 21, 25, 29, 33, 37}
    texts = [
        (f"It is {1000 + n}." if n not in wrong else "It is seven.", f"It is {1000 + n}.")
        for n in range(40)
    ]
    found = measured(
        tmp_path,
        (CheckJudgeConfig(kind="check"),),
        texts,
        check=lambda n: Check(regex=rf"\b{1000 + n}\b"),
    )
    (report,) = found.judges
    estimate = report.estimate
    assert (estimate.scale, estimate.student_mean, estimate.teacher_mean) == (
        "difference",
        0.75,
        1.0,
    )
    assert estimate.value == pytest.approx(-0.25)
    assert estimate.threshold == -0.05
    assert found.outcome is Outcome.FAIL
    assert (report.discordance.only_student, report.discordance.only_teacher) == (0, 10)
    assert report.discordance.p_exact == pytest.approx(2 * 0.5**10)
    assert "shuffled words" not in {control.name for control in report.controls}


def test_check_that_everything_passes_is_an_invalid_judge(tmp_path):
    texts = [(f"I say {n}.", f"It is {n}, by all means.") for n in range(20)]
    found = measured(
        tmp_path,
        (CheckJudgeConfig(kind="check"),),
        texts,
        check=lambda _: Check(regex="."),
    )
    assert found.outcome is Outcome.INVALID_JUDGE
    assert "answer to another prompt" in found.reason


def test_without_a_judge_of_quality_nothing_is_measured(tmp_path):
    texts = [(f"The same {n}.", f"The same {n}.") for n in range(20)]
    judges = (ReferenceJudgeConfig(kind="reference", reference="teacher"),)
    found = measured(tmp_path, judges, texts, teacher_answer=lambda n: f"The same {n}.")
    (report,) = found.judges
    assert found.outcome is Outcome.INVALID_JUDGE
    assert (found.decided_by, report.outcome) == (None, None)
    assert report.estimate.value == 0.0
    assert "similarity" in found.reason


def test_check_without_checks_is_invalid(tmp_path):
    found = measured(tmp_path, (CheckJudgeConfig(kind="check"),), [("a", "b")] * 8)
    assert found.outcome is Outcome.INVALID_JUDGE


def test_the_first_judge_of_quality_decides(tmp_path):
    texts = [(f"It is {1000 + n}.", f"It is {1000 + n}.") for n in range(70)]
    judges = (
        ReferenceJudgeConfig(kind="reference", reference="teacher", name="likeness"),
        CheckJudgeConfig(kind="check"),
        ReferenceJudgeConfig(kind="reference", name="chrf"),
    )
    found = measured(
        tmp_path,
        judges,
        texts,
        check=lambda n: Check(regex=rf"\b{1000 + n}\b"),
        reference=lambda _: "Something else entirely.",
        teacher_answer=lambda n: f"It is {1000 + n}.",
    )
    assert (found.decided_by, found.outcome) == ("check", Outcome.PASS)
    assert [report.decides for report in found.judges] == [False, True, False]
