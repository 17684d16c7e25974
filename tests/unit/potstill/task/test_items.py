import json

import pytest

from potstill.errors import ArtifactError
from potstill.schema import Message
from potstill.task.answers import Answer, Item, ToolCall
from potstill.task.items import lines_of, read_items

CALL = ToolCall(name="pay", arguments='{"to": "Ann"}')


@pytest.fixture
def read(tmp_path):
    def read(*rows, has_tools=False):
        path = tmp_path / "items.jsonl"
        lines = [one if isinstance(one, str) else json.dumps(one) for one in rows]
        path.write_text("\n\n".join(lines))
        return read_items(path, has_tools=has_tools)

    return read


@pytest.mark.parametrize(
    ("row", "known"),
    [
        ({"prompt": "Hi"}, None),
        ({"prompt": "Hi", "answer": "Yes"}, Answer(text="Yes")),
        ({"prompt": "Hi", "answer": {"a": "é"}}, Answer(text='{"a": "é"}')),
        ({"prompt": "Hi", "answer": {"name": "pay", "arguments": {"to": "Ann"}}}, None),
        (
            {
                "messages": [
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": "Yes"},
                ]
            },
            Answer(text="Yes"),
        ),
    ],
)
def test_rows_are_read(read, row, known):
    (item,) = read(row)
    assert [message.content for message in item.messages] == ["Hi"]
    if known is not None:
        assert item.known == known


def test_a_dialogue_is_one_prompt_for_each_known_answer(read):
    messages = [
        {"role": "user", "content": "Pay!"},
        {"role": "assistant", "content": "Whom?"},
        {"role": "user", "content": "Ann."},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "pay"}}]},
    ]
    first, second = read({"messages": messages, "each_turn": True})
    assert ([one.content for one in first.messages], first.known.text) == (["Pay!"], "Whom?")
    assert len(second.messages) == 3
    assert [call.name for call in second.known.tool_calls] == ["pay"]
    (alone,) = read({"messages": messages})
    assert alone == second


@pytest.mark.parametrize(
    "answer",
    [
        {"name": "pay", "arguments": {"to": "Ann"}},
        {"name": "pay", "parameters": {"to": "Ann"}},
        [{"name": "pay", "arguments": {"to": "Ann"}}],
        '{"name": "pay", "arguments": {"to": "Ann"}}',
    ],
)
def test_calls_are_read_where_there_are_tools(read, answer):
    row = {"prompt": "Pay Ann", "answer": answer}
    assert read(row, has_tools=True)[0].known == Answer(tool_calls=(CALL,))
    assert read(row)[0].known.tool_calls == ()


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("{", "not JSON: Expecting property name"),
        ("prompt,answer", "one JSON object on each line"),
        ("[1]", "a JSON list"),
        ('{"prompt": 3}', "prompt is no text: 3"),
        ('{"question": "Hi"}', "keys question"),
        ('{"messages": [{"role": "narrator", "content": "x"}]}', "role"),
        ('{"messages": [{"role": "system", "content": "x"}]}', "must be the user's"),
        ('{"messages": 3}', "not iterable"),
    ],
)
def test_a_bad_line_is_named(read, line, found):
    with pytest.raises(ArtifactError) as caught:
        read({"prompt": "Hi"}, line)
    assert "items.jsonl:3" in str(caught.value)
    assert found in str(caught.value)


def test_a_file_of_windows_is_read(tmp_path):
    path = tmp_path / "items.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "Hi"}\r\n\r\n{"prompt": "Bye"}\r\n')
    assert len(read_items(path, has_tools=False)) == 2


def test_a_table_is_read(tmp_path):
    path = tmp_path / "items.CSV"
    path.write_bytes('\ufeffPrompt;Answer\r\n"Hi;\nyou";{"a": "é"}\r\nBye;\r\n'.encode())
    first, second = read_items(path, has_tools=False)
    assert first.messages == (Message(role="user", content="Hi;\nyou"),)
    assert (first.known, second.known) == (Answer(text='{"a": "é"}'), None)
    path.write_text("prompt\tanswer\nPay Ann\t" + json.dumps({"name": "pay", "arguments": {}}))
    assert read_items(path, has_tools=True)[0].known.tool_calls[0].name == "pay"


@pytest.mark.parametrize(
    ("text", "where", "found"),
    [
        ("id,ticket,team\n1,Hi,a\n", ":1", "columns 'id', 'ticket', 'team'"),
        ("prompt,answer\nHi,a\nWell, well,b\n", ":3", "cells in the row: 3, columns: 2"),
        ("prompt,answer\n", "", "no prompt"),
    ],
)
def test_a_table_at_fault_names_its_line_and_what_is_expected(tmp_path, text, where, found):
    path = tmp_path / "items.csv"
    path.write_text(text)
    with pytest.raises(ArtifactError, match="expected: a first line that names") as caught:
        read_items(path, has_tools=False)
    assert f"where: {path}{where}\n" in str(caught.value)
    assert found in str(caught.value)


def test_an_empty_file_is_an_error(read):
    with pytest.raises(ArtifactError, match="no prompt"):
        read("")


def test_what_is_written_is_read_again(tmp_path):
    question = (Message(role="user", content="Pay Ann\N{LINE SEPARATOR}now\x85"),)
    items = (
        Item(messages=question),
        Item(messages=question, known=Answer(text="Done")),
        Item(messages=question, known=Answer(tool_calls=(CALL,))),
    )
    (tmp_path / "items.jsonl").write_text(lines_of(items))
    assert read_items(tmp_path / "items.jsonl", has_tools=True) == items
