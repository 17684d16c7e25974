"""What there is to review in a run."""

import json
import sys

import pytest

from generate.curation.reviews import Decision, ReviewLog
from generate.review import rows as review_rows
from generate.review.make import find_subject
from generate.review.run_rows import run_subject
from generate.stage import run
from potstill.errors import ArtifactError
from potstill.rundir import RunDirectory
from potstill.schema import Message
from potstill.tables import PAIR_SCHEMA, write_rows
from potstill.task.config import TaskConfig
from potstill.task.stage import write_task


@pytest.fixture
def made(configured, run_directory, toys):
    """Return a function that runs all stages; keywords are tables."""
    assert not toys.loaded

    def make(**tables):
        run(configured(**tables), run_directory)
        return run_subject(run_directory)

    return make


@pytest.fixture
def with_task(run_directory, tmp_path):
    """Give the run a task of labels with one example, one reference and instructions."""
    rows = {
        "examples": {"prompt": "Who painted the Mona Lisa?", "answer": "art"},
        "references": {"prompt": "How far away is the moon in miles?", "answer": "science"},
    }
    paths = {name: tmp_path / f"{name}.jsonl" for name in rows}
    for name, path in paths.items():
        path.write_text(json.dumps(rows[name]) + "\n")
    task = {
        "instructions": "Name the field.",
        "student_instructions": "",
        **paths,
        "num_shots": 1,
        "metrics": [{"kind": "label", "labels": ["art", "science"]}],
    }
    return write_task(TaskConfig.model_validate(task), run_directory)


def kinds(row):
    return [doubt.kind for doubt in row.doubts]


def test_answers_of_the_training_split_are_shown(made, stored, run_directory):
    subject = made()
    training = [one for one in stored.conversations(run_directory) if one.prompt.split == "train"]
    wanted = {(one.given, one.completion) for one in training}
    assert {(row.messages, row.answer) for row in subject.rows} == wanted
    assert {row.uses for row in subject.rows} == {("training",)}
    assert subject.log_path == run_directory.root / "review.jsonl"
    assert subject.labels == subject.notes == ()


def test_a_run_without_samples_is_an_error(run_directory):
    with pytest.raises(ArtifactError, match="nothing to review in the run"):
        run_subject(run_directory)


def test_filters_and_the_limit_of_tokens_doubt_answers(made, toys):
    toys.answer = lambda request: "a long answer" + "|" * (int(request.request_id[0], 16) % 2)
    subject = made(curation={"max_answer_tokens": 13})
    assert {tuple(kinds(row)) for row in subject.rows} == {("length",), ("truncated",)}
    reasons = {doubt.text for row in subject.rows for doubt in row.doubts}
    assert reasons == {"an answer of 14 tokens, maximum 13", "cut off after 13 tokens"}


def test_a_decision_does_not_change_what_is_shown(made):
    subject = made()
    row = subject.rows[0]
    better = Message(role="assistant", content="Better.")
    decision = Decision(
        row=row.id,
        action="edit",
        reviewer="ann",
        time="now",
        known=better,
        messages=row.messages,
        answer=row.answer,
    )
    ReviewLog(subject.log_path).add(decision, 0)
    again = made()
    assert again.rows == subject.rows


def test_answers_to_one_prompt_that_differ_are_in_doubt(made, toys):
    toys.answer = lambda request: "yes|" if request.request_id.split()[0].endswith("-0") else "no|"
    subject = made(turns={"num_answers": 3})
    texts = {row.answer[0].content: {one.text for one in row.doubts} for row in subject.rows}
    assert texts == {"yes": {"1 of 3 answers say this"}, "no": {"2 of 3 answers say this"}}


def test_the_same_answers_to_one_prompt_are_one_row(made, toys):
    toys.answer = lambda _: "yes|"
    subject = made(turns={"num_answers": 3})
    assert len({row.id for row in subject.rows}) == len(subject.rows)
    assert len({row.messages for row in subject.rows}) == len(subject.rows)
    assert not any(row.doubts for row in subject.rows)


def test_functions_of_a_run_are_called_only_if_the_user_names_the_task(
    made, run_directory, tmp_path, caplog
):
    marker, code = tmp_path / "called", tmp_path / "theirs.py"
    code.write_text(f"open({str(marker)!r}, 'a').close()\n\ndef score(*_):\n    return 0.5\n")
    examples = tmp_path / "examples.jsonl"
    examples.write_text('{"prompt": "Who painted the Mona Lisa?", "answer": "art"}\n')
    metrics = [{"kind": "function", "function": f"{code}:score"}, {"kind": "exact"}]
    task = {"examples": examples, "metrics": metrics}
    write_task(TaskConfig.model_validate(task), run_directory)
    made()
    marker.unlink()
    sys.modules.pop(f"potstill_user_functions.{code.resolve().as_posix()}")
    subject = run_subject(run_directory)
    assert not marker.exists()
    assert f"{code}:score" in caplog.text
    assert "score" not in {kind for row in subject.rows for kind in kinds(row)}
    path = tmp_path / "task.toml"
    path.write_text(
        f"[task]\nexamples = {json.dumps(str(examples))}\n"
        f'[[task.metrics]]\nkind = "function"\nfunction = {json.dumps(f"{code}:score")}\n'
    )
    subject = find_subject(run_directory.root, path)
    assert marker.exists()
    assert "score" in {kind for row in subject.rows for kind in kinds(row)}


@pytest.mark.usefixtures("with_task")
def test_a_majority_with_a_minority_is_in_doubt(made, toys):
    toys.answer = lambda request: (
        "art|" if request.request_id.split()[0].endswith(("-0", "-1")) else "science|"
    )
    subject = made(turns={"best_of": 3, "best_by": "majority"})
    texts = {one.text for row in subject.rows for one in row.doubts if one.kind == "disagreement"}
    assert texts == {"67% of the answers to this prompt say the same"}


@pytest.mark.usefixtures("with_task")
def test_a_task_doubts_wrong_answers_and_its_instructions_are_not_shown(made, toys):
    toys.answer = lambda _: "science|"
    subject = made()
    (known,) = (row for row in subject.rows if row.known)
    assert known.messages == (Message(role="user", content="Who painted the Mona Lisa?"),)
    assert [(one.kind, one.text) for one in known.doubts] == [
        ("label", "0.00, expected art, found science")
    ]
    assert known is subject.rows[0]
    assert {len(row.messages) for row in subject.rows} == {1}
    assert {row.uses for row in subject.rows} == {("training", "examples", "references")}
    assert subject.labels == ("art", "science")
    assert "How far away is the moon in miles?" not in {
        row.messages[0].content for row in subject.rows
    }


def answered(role, answer, prompt="How far away is the moon in miles?", **changes):
    row = dict.fromkeys(PAIR_SCHEMA.names, 0)
    message = {"role": "user", "content": prompt}
    row |= {"messages": [message], "role": role, "answer": answer, "finish_reason": "stop"}
    row |= {"prompt_id": "p", "conversation_id": "p", "model": role, "tool_calls": None}
    return row | changes


@pytest.mark.usefixtures("with_task")
def test_compared_answers_that_a_metric_fails_are_shown(made, run_directory):
    made()
    directory = run_directory.stage_dir("comparison")
    directory.mkdir()
    rows = [
        answered("student", "art"),
        answered("teacher", "art"),
        answered("student", "science", sample=1),
        answered("teacher", "?", finish_reason="error"),
        answered("known_worse", "?"),
    ]
    write_rows(directory / "pairs.parquet", PAIR_SCHEMA, rows)
    subject = run_subject(run_directory)
    (row,) = (one for one in subject.rows if one.source == "comparison")
    assert [(one.kind, one.text) for one in row.doubts] == [
        ("student", "label 0.00, expected science, found art"),
        ("teacher", "label 0.00, expected science, found art"),
    ]
    assert row.known.text == "science"
    assert row.uses == ("references",)


def test_of_many_answers_the_doubtful_ones_are_shown(made, toys, monkeypatch):
    monkeypatch.setattr(review_rows, "MOST_ROWS", 3)
    toys.answer = lambda request: "a long answer|" if request.request_id[0] in "01234567" else "no|"
    subject = made(curation={"max_answer_tokens": 5})
    assert len(subject.rows) == 3
    assert subject.rows[0].doubts
    assert subject.notes[0].startswith("3 of ")
    (other,) = (run_subject(one) for one in [RunDirectory(subject.log_path.parent)])
    assert other.rows == subject.rows
