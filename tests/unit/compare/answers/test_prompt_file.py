import json

import pytest

from compare.answers.prompt_file import read_prompt_file
from compare.answers.questions import Check, messages_id, with_references
from potstill.errors import ArtifactError

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]


def written(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_prompts_with_what_is_known_of_them(tmp_path):
    path = written(
        tmp_path / "tasks.jsonl",
        {"prompt": "How?", "language": "en", "cluster_id": "c", "source": "template 3"},
        {"messages": [*CHAT, {"role": "assistant", "content": "4"}], "check": {"regex": r"\b4\b"}},
        {"messages": CHAT, "answer": "asked twice"},
    )
    plain, checked = read_prompt_file(path)
    assert plain.messages[0].content == "How?"
    assert plain.slices == {
        "source": "template 3",
        "length": "short",
        "turns": "one",
        "language": "en",
    }
    assert [plain.cluster(by) for by in ("cluster", "source", "conversation")] == [
        "c",
        "template 3",
        plain.prompt_id,
    ]
    assert [message.role for message in checked.messages] == ["system", "user"]
    assert checked.reference == "4"
    assert checked.check == Check(regex=r"\b4\b")
    assert checked.source == "tasks.jsonl"


def test_the_same_prompt_under_two_ids_is_one_prompt(tmp_path):
    """Else a file with each prompt twice would have an interval as of twice as many."""
    rows = [{"prompt": "How?", "prompt_id": str(n), "cluster_id": str(n)} for n in range(2)]
    (found,) = read_prompt_file(written(tmp_path / "twice.jsonl", *rows))
    assert found.prompt_id == "0"


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ('{"prompt": 3}', "prompt"),
        ("[1]", "the line"),
        ("{", "not JSON"),
        ('{"messages": []}', "the last message"),
        ('{"messages": [{"role": "system", "content": "x"}]}', "the last message"),
        ('{"prompt": "x", "check": {"regex": "("}}', "not a regular expression"),
        ('{"prompt": "x", "check": {}}', "either exact or regex"),
    ],
)
def test_bad_line_is_named(tmp_path, row, found):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "fine"}\n' + row + "\n")
    with pytest.raises(ArtifactError, match=found) as caught:
        read_prompt_file(path)
    assert "bad.jsonl:2" in str(caught.value)


def test_empty_file_is_an_error(tmp_path):
    with pytest.raises(ArtifactError, match="no prompt"):
        read_prompt_file(written(tmp_path / "none.jsonl"))


def test_references_are_found_by_messages(tmp_path, questions):
    message = {"role": "user", "content": "question 1"}
    rows = read_prompt_file(
        written(tmp_path / "a.jsonl", {"messages": [message], "answer": "one", "source": "b"})
    )
    found = with_references(questions, {messages_id(one.messages): one for one in rows})
    assert [one.reference for one in found] == [None, "one", None]
    assert found[1].source == "a test"
