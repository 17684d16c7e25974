"""A judge of yes/no criteria over real HTTP, and its correction by people's labels."""

import json
import re

import pytest
from pydantic import ValidationError

from compare.answers.jsonl import append_line
from compare.config import CompareConfig
from compare.judge_config import CriteriaJudgeConfig
from compare.judges.assay import Judged
from compare.judges.labels import Label, read_labels
from compare.judges.panel import Opinion, pair_up
from compare.judges.protocol import Judgment, Reading
from compare.verdict.decision import decide, judgment_rows
from potstill.errors import ArtifactError
from potstill.schema import Message
from potstill.tables import JUDGMENT_SCHEMA, read_rows, write_rows

from ..judging import REGISTERED, answer, decided, question

FEE, PROMISE = "names the fee", "promises nothing"
GOOD, NO_FEE = "The fee is 2 euros.", "There is a price."


def meets(criterion: str, text: str) -> bool:
    return "fee" in text if criterion == FEE else "promise" not in text


def judge(body) -> str:
    """Says what is true, from the marked texts alone."""
    text = body["messages"][1]["content"]
    found = dict(re.findall(r"<(answer|criterion) \w+>\n(.*?)\n</", text, re.DOTALL))
    said = "yes" if meets(found["criterion"], found["answer"]) else "no"
    return json.dumps({"reason": "so", "meets": said})


def config(path, **changes) -> CriteriaJudgeConfig:
    values = {"kind": "criteria", "criteria": (FEE, PROMISE), "labels": path, "model": "judge"}
    return CriteriaJudgeConfig(**values | changes)


def label(number, text, criterion, said, **changes) -> dict:
    line = {"prompt": question(number).messages[0].content, "answer": text}
    return line | {"criterion": criterion, "label": said, "labeler": "ann"} | changes


def written(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def of_texts(texts, refused=()):
    """Return questions and both answers to each, from the student's and the teacher's texts."""
    answers = []
    for number, (student, teacher) in enumerate(texts):
        reason = "error" if number in refused else "stop"
        answers += [answer("student", number, student, reason=reason)]
        answers += [answer("teacher", number, teacher)]
    return [question(number) for number in range(len(texts))], answers


def test_each_answer_is_read_alone_once_for_each_criterion(tmp_path, openai_server):
    server = openai_server(judge)
    texts = [("I promise.", GOOD), (GOOD, GOOD), ("", GOOD), (NO_FEE, GOOD)]
    questions, answers = of_texts(texts, refused={2})
    table = config(tmp_path / "labels.jsonl", base_url=server.base_url)
    found = decided(tmp_path / "cache", CompareConfig(judges=(table,)), questions, answers)
    judgments = [judgment for _, judgment in found.opinions[0].judged_pairs]
    values = [(one.student_value, one.teacher_value) for one in judgments]
    assert values == [(0.0, 1.0), (1.0, 1.0), (0.0, 1.0), (0.5, 1.0)]
    assert [one.note for one in judgments] == [None, "the answers are the same", None, None]
    assert len(server.requests) == 2 * (2 + 1 + 1 + 2), "equal answers are read once, none never"
    assert all(body["messages"][0]["content"] == table.rubric for body in server.requests)
    schema = server.requests[0]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["meets"]["enum"] == ["yes", "no"]
    assert found.report.estimate.student_mean == pytest.approx(1.5 / 4)
    assert (found.report.checks, found.report.kind) == ((), "criteria")
    path = tmp_path / "judgments.parquet"
    write_rows(path, JUDGMENT_SCHEMA, judgment_rows(found.opinions[0], found.panel.cluster_of))
    stored = next(read_rows(path, JUDGMENT_SCHEMA))
    assert [one["meets"] for one in stored["readings"]] == [False, False, True, True]


def test_a_reading_that_fails_leaves_the_pair_unread(tmp_path, openai_server):
    server = openai_server(lambda body: "maybe" if "price" in str(body) else judge(body))
    questions, answers = of_texts([(NO_FEE, GOOD), ("I promise.", GOOD), (NO_FEE, NO_FEE)])
    table = config(tmp_path / "labels.jsonl", base_url=server.base_url)
    found = decided(tmp_path / "cache", CompareConfig(judges=(table,)), questions, answers)
    assert found.report.num_failed == 1
    assert (found.report.estimate.num_pairs, found.report.estimate.num_unread) == (2, 1)
    same = found.opinions[0].judged_pairs[2][1]
    assert (same.score, same.failure) == (0.5, "no verdict by the schema")
    assert found.report.estimate.student_mean == 0.0


def verdict(tmp_path, said, labeled, num_prompts=300):
    """Decide where the judge says one thing of all answers and people another.

    Args:
        said: By the judge, how often of ten the student's and the teacher's answers meet FEE.
        labeled: The same by people's labels of the first prompts; their number comes third.
    """
    texts = [(f"{NO_FEE} {n}", f"{GOOD} {n}") for n in range(num_prompts)]
    questions, answers = of_texts(texts)
    pairs = pair_up(questions, answers, 1)

    def judgment(number):
        of = [("student", number % 10 < said[0]), ("teacher", number % 10 < said[1])]
        readings = tuple(Reading(side=side, criterion=FEE, meets=is_met) for side, is_met in of)
        student, teacher = (float(is_met) for _, is_met in of)
        score = 0.5 + (student - teacher) / 2
        return Judgment(
            score=score, student_value=student, teacher_value=teacher, readings=readings
        )

    lines = [
        label(number, text, FEE, number % 10 < often)
        for number in range(labeled[2])
        for text, often in zip(texts[number], labeled[:2], strict=True)
    ]
    judged = Judged(
        name="criteria",
        kind="criteria",
        claim="quality",
        measures=True,
        needs_assay=False,
        model=None,
        judgments=tuple(judgment(number) for number in range(num_prompts)),
    )
    labels = read_labels(written(tmp_path / "labels.jsonl", lines))
    opinion = Opinion(pairs, judged, labeled=labels)
    return decide(CompareConfig(), REGISTERED, [opinion], answers, lambda p: p.question.prompt_id)


@pytest.mark.parametrize(
    ("said", "labeled", "outcome", "alone"),
    [
        ((9, 9), (9, 9, 0), "INCONCLUSIVE", "PASS"),
        ((9, 9), (9, 9, 24), "INCONCLUSIVE", "PASS"),
        ((9, 9), (9, 9, 200), "PASS", "PASS"),
        ((9, 9), (5, 9, 100), "FAIL", "PASS"),
        ((5, 9), (9, 9, 300), "PASS", "FAIL"),
        ((5, 9), (5, 9, 24), "INCONCLUSIVE", "FAIL"),
    ],
)
def test_peoples_labels_decide(tmp_path, said, labeled, outcome, alone):
    found = verdict(tmp_path, said, labeled)
    (report,) = found.judges
    assert (found.outcome, report.alone) == (outcome, alone)
    assert (found.decided_by, report.estimate.scale) == ("criteria", "difference")
    assert f"the judge alone: {alone}" in found.reason
    if labeled[2] < 25:
        assert f"and {25 - labeled[2]} of the 25 are missing" in found.reason
        assert report.human_corrected is None
    else:
        difference = (labeled[0] - labeled[1]) / 10
        assert report.human_corrected.rate == pytest.approx(difference, abs=1e-9)
        assert f"from both answers to {labeled[2]} labeled prompts and 300" in found.reason
    assert {one.outcome for one in report.slices} == {"INCONCLUSIVE"}, "people see no slice"
    (row,) = report.criteria
    assert row.shares == {"student": said[0] / 10, "teacher": said[1] / 10}


def test_the_judges_errors_are_counted_by_side(tmp_path):
    (report,) = verdict(tmp_path, (9, 6), (7, 8, 100)).judges
    student, teacher = (report.criteria[0].agreement[side] for side in ("student", "teacher"))
    assert (student.num_met, student.num_met_seen) == (70, 70)
    assert (student.num_unmet, student.num_unmet_seen) == (30, 10)
    assert (teacher.num_met, teacher.num_met_seen) == (80, 60)
    assert (teacher.num_unmet, teacher.num_unmet_seen) == (20, 20)


def test_the_last_label_of_each_labeler_counts_and_their_mean(tmp_path):
    lines = [
        label(1, GOOD, FEE, False),
        label(1, GOOD, FEE, True),
        label(1, GOOD, FEE, False, labeler="bob"),
        label(1, GOOD, PROMISE, True),
        label(2, GOOD, FEE, True, prompt=None, messages=[{"role": "user", "content": "Hi"}]),
    ]
    labels = read_labels(written(tmp_path / "labels.jsonl", lines))
    messages = question(1).messages
    assert labels.of(messages, GOOD, FEE) == 0.5
    assert labels.value(messages, GOOD, (FEE, PROMISE)) == 0.75
    assert labels.value(messages, GOOD, (FEE, "is short")) is None
    assert labels.value(messages, "", (FEE, PROMISE)) == 0.0, "no answer meets no criterion"
    assert labels.of(question(2).messages, GOOD, FEE) is None, "another prompt"


def test_a_stored_label_is_read_back_with_its_calls_and_line_breaks(tmp_path):
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = (
        Message(role="user", content="How\u2028much?\n"),
        Message(role="assistant", content="", tool_calls=json.dumps([call])),
        Message(role="tool", content="2", tool_call_id="1"),
    )
    path = tmp_path / "new" / "labels.jsonl"
    for said in (True, False):
        label = Label(messages=messages, answer="2 €", criterion=FEE, label=said)
        append_line(path, label, what="a label")
    assert len(path.read_text().splitlines()) > 2, "some lines split at more than a line feed"
    assert read_labels(path).of(messages, "2 €", FEE) == 0.0


def test_a_label_counts_in_the_comparison_that_it_states(tmp_path):
    lines = [label(n, GOOD, FEE, True, comparison=name) for n, name in enumerate("ab")]
    path = written(tmp_path / "labels.jsonl", [*lines, label(2, GOOD, FEE, True)])

    def known(comparison):
        labels = read_labels(path, comparison)
        return [labels.of(question(n).messages, GOOD, FEE) for n in range(3)]

    assert known("b") == [None, 1.0, 1.0]
    assert known(None) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ({"label": "yes"}, "label: "),
        ({"prompt": None}, "a label needs a prompt or messages"),
        ({"answer": None}, "answer: "),
    ],
)
def test_a_line_that_is_no_label_is_named(tmp_path, line, found):
    path = written(tmp_path / "labels.jsonl", [label(1, GOOD, FEE, True) | line])
    with pytest.raises(ArtifactError, match=found) as raised:
        read_labels(path)
    assert raised.value.where == f"{path}:1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"criteria": ()}, "at least 1 item"),
        ({"criteria": (FEE, FEE)}, "criteria need to differ"),
        ({"criteria": ("",)}, "at least 1 character"),
    ],
)
def test_criteria_that_cannot_be_used_are_refused(tmp_path, change, message):
    with pytest.raises(ValidationError, match=message):
        config(tmp_path / "labels.jsonl", **change)
