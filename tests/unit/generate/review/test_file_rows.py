import json

import pytest

from generate.review.file_rows import file_subject, read_lines, review_path, with_answers
from potstill.errors import ArtifactError, ConfigError
from potstill.schema import Message
from potstill.task.task import Task

CALL = {"id": "c", "type": "function", "function": {"name": "block", "arguments": "{}"}}
USER = {"role": "user", "content": "Hello?"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "mine.jsonl"


@pytest.fixture
def subject(path):
    """Return a function that writes rows and returns what there is to review."""

    def make(*rows, task=None):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("".join(f"{line}\n" for line in lines))
        return file_subject(path, task)

    return make


def shown(subject):
    return [(row.messages[-1].content, row.answer[-1].content) for row in subject.rows]


def test_examples_and_traces_are_rows(subject, path):
    found = subject(
        {"prompt": "One?", "answer": "1"},
        {"prompt": "Two?", "answer": {"label": "2"}},
        {"messages": [USER, {"role": "assistant", "content": "Hi."}]},
        {"messages": [{"role": "user", "content": "Three?"}]},
        {
            "request": {"messages": [{"role": "user", "content": "Four?"}]},
            "response": {"choices": [{"message": {"role": "assistant", "content": "4"}}]},
        },
    )
    assert sorted(shown(found)) == [
        ("Four?", "4"),
        ("Hello?", "Hi."),
        ("One?", "1"),
        ("Three?", ""),
        ("Two?", '{"label": "2"}'),
    ]
    assert found.log_path == path.with_name("mine.review.jsonl") == review_path(path)
    (empty,) = (row for row in found.rows if row.doubts)
    assert [one.kind for one in empty.doubts] == ["empty"]
    assert found.rows[0] is empty  # the doubtful come first


def test_what_cannot_be_reviewed_is_counted(subject):
    found = subject(
        {"prompt": "One?", "answer": "1"}, "{", "", {"text": "x"}, {"messages": []}, "[1]"
    )
    assert len(found.rows) == 1
    assert found.notes == ("4 lines have no prompt that can be reviewed.",)


def test_a_file_without_prompts_is_an_error(subject, tmp_path):
    with pytest.raises(ConfigError, match="nothing to review") as caught:
        subject({"text": "x"})
    assert "potstill import" in caught.value.hint
    with pytest.raises(ArtifactError, match="reading what is reviewed failed"):
        file_subject(tmp_path / "missing.jsonl", None)


def test_answers_to_the_same_prompt_that_differ_are_in_doubt(subject):
    found = subject(*({"prompt": "Even?", "answer": one} for one in ("Yes", "yes.", "no")))
    texts = {row.answer[0].content: [one.text for one in row.doubts] for row in found.rows}
    assert texts == {
        "Yes": ["2 of 3 answers say this"],
        "yes.": ["2 of 3 answers say this"],
        "no": ["1 of 3 answers say this"],
    }


def test_a_task_and_filters_of_texts_doubt_answers(subject):
    task = Task.model_validate({"metrics": [{"kind": "label", "labels": ["art", "science"]}]})
    found = subject(
        {"messages": [USER, {"role": "assistant", "content": "art"}], "answer": "science"},
        {"prompt": "Mail?", "answer": "Write to joe@example.com."},
        {"prompt": "Help?", "answer": "I'm sorry, but I can't help with that."},
        task=task,
    )
    doubts = {row.messages[-1].content: row.doubts for row in found.rows}
    (label,) = doubts["Hello?"]
    assert (label.kind, label.text) == ("label", "0.00, expected science, found art")
    assert [one.kind for one in doubts["Mail?"]] == ["personal_data"]
    assert [one.kind for one in doubts["Help?"]] == ["refusal"]
    assert found.labels == ("art", "science")
    shown_row = next(row for row in found.to_json()["rows"] if row["known"])
    assert shown_row["known"]["content"] == "science"


def test_similar_prompts_are_one_cluster(subject):
    found = subject(
        {"prompt": "How do I block my lost card?", "answer": "1"},
        {"prompt": "How do I block my lost cards?", "answer": "2"},
        {"prompt": "What is the weather like in Rome?", "answer": "3"},
    )
    clusters = {row["answer"][0]["content"]: row["cluster"] for row in found.to_json()["rows"]}
    assert clusters["1"] == clusters["2"] != clusters["3"]


def test_who_reviewed_a_line_is_shown(subject):
    found = subject({"prompt": "One?", "answer": "1", "reviewer": "ann", "reviewed_at": "today"})
    assert found.rows[0].reviewed == "ann, today"


@pytest.mark.parametrize(
    ("row", "changed"),
    [
        ({"prompt": "One?", "answer": "1", "source": "me"}, {"answer": "2"}),
        ({"prompt": "One?"}, {"answer": "2"}),
        (
            {"messages": [USER, {"role": "assistant", "content": "1"}], "tools": []},
            {"messages": [USER, {"role": "assistant", "content": "2"}]},
        ),
        (
            {
                "messages": [USER],
                "choices": [{"index": 0, "message": {"role": "assistant", "content": "1"}}],
            },
            {"choices": [{"index": 0, "message": {"role": "assistant", "content": "2"}}]},
        ),
        (
            {
                "request": {"messages": [USER]},
                "response": {
                    "id": "r",
                    "choices": [{"message": {"role": "assistant", "content": "1"}}],
                },
            },
            {
                "response": {
                    "id": "r",
                    "choices": [{"index": 0, "message": {"role": "assistant", "content": "2"}}],
                }
            },
        ),
    ],
    ids=["prompt", "no answer", "messages", "choices", "record"],
)
def test_an_answer_is_replaced_where_it_stands(path, row, changed):
    path.write_text(json.dumps(row))
    (line,) = read_lines(path)
    assert with_answers(line, [Message(role="assistant", content="2")]) == row | changed


def test_calls_are_written_as_examples_have_them(path):
    path.write_text(
        json.dumps({"prompt": "Block it", "answer": {"name": "block", "arguments": {}}})
    )
    (line,) = read_lines(path)
    assert json.loads(line.answers[0].tool_calls)[0]["function"]["name"] == "block"
    answer = Message(role="assistant", content="", tool_calls=json.dumps([CALL]))
    assert with_answers(line, [answer])["answer"] == [{"name": "block", "arguments": {}}]
