import json

import pytest

from generate.sources.rows import RowError
from generate.sources.shapes import to_prompts
from potstill.schema import Message

HELLO = {"role": "user", "content": "Hello"}
ANSWER = {"role": "assistant", "content": "Hi!"}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
COMPLETION = {"object": "chat.completion", "choices": [{"index": 0, "message": ANSWER}]}


def prompt(row, last_role="user"):
    (found,) = to_prompts(row, last_role=last_role, source="made in a test")
    if isinstance(found, RowError):
        raise found
    return found


def turns(row, last_role="user"):
    return [(one.role, one.content) for one in prompt(row, last_role).messages]


def test_messages_are_taken_as_they_are():
    given = [
        {"role": "system", "content": "You answer in French."},
        {"role": "user", "content": "Hello\n  there"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": " Go on. "},
    ]
    found = prompt({"messages": given})
    assert [message.to_chat() for message in found.messages] == given


ASKED = [("user", "Hello")]
ANSWERED = [("user", "Hello"), ("assistant", "Hi!")]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [HELLO, ANSWER]},
        {"messages": [HELLO], **COMPLETION},
        {"prompt": "Hello", "prompt_id": "7", "messages": [HELLO, ANSWER]},
        {"prompt": [HELLO, ANSWER]},
        {"conversation": [HELLO, ANSWER]},
        {"conversations": [HELLO, ANSWER]},
        {"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi!"}]},
        {"request": {"model": "m", "messages": [HELLO]}, "response": COMPLETION},
        {"request": json.dumps({"messages": [HELLO]}), "response": json.dumps(COMPLETION)},
        {
            "request": {"messages": [HELLO]},
            "response": {"status_code": 200, "body": COMPLETION},
        },
        {"custom_id": "a", "method": "POST", "body": {"model": "m", "messages": [HELLO, ANSWER]}},
    ],
)
def test_a_conversation_is_found_in_every_shape(row):
    assert turns(row, "assistant") == ANSWERED
    assert turns(row, "any") == ANSWERED
    assert turns(row, "user") == ASKED


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hello"},
        {"prompt": [HELLO]},
        {"messages": [HELLO], "choices": []},
        {"body": {"messages": [HELLO]}, "url": "/v1/chat/completions", "custom_id": "a"},
        {"request": {"messages": [HELLO]}, "response": None},
        {"request": {"messages": [HELLO]}, "response": {"error": "late", "body": None}},
    ],
)
def test_a_question_without_an_answer_can_be_asked_and_not_scored(row):
    assert turns(row) == ASKED
    assert turns(row, "any") == ASKED
    with pytest.raises(RowError, match="no assistant's message at the end"):
        turns(row, "assistant")


def test_only_the_answer_at_the_end_is_left_out():
    again = {"role": "user", "content": "And now?"}
    row = {"messages": [HELLO, ANSWER, again, ANSWER, ANSWER]}
    assert turns(row) == [*ANSWERED, ("user", "And now?")]


def test_a_tools_result_may_be_what_is_answered():
    given = [
        HELLO,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
    ]
    found = prompt({"messages": [*given, ANSWER], "tools": [TOOL]})
    assert [message.role for message in found.messages] == ["user", "assistant", "tool"]
    assert json.loads(found.messages[1].tool_calls) == [CALL]
    assert found.messages[2].tool_call_id == "c1"
    assert json.loads(found.tools) == [TOOL]
    assert found == prompt({"request": {"messages": given, "tools": [TOOL]}})


def test_tools_may_stand_beside_messages_in_any_spelling():
    bare = TOOL["function"]
    for tools in ([TOOL], json.dumps([TOOL]), [bare], json.dumps([bare])):
        assert json.loads(prompt({"prompt": "a", "tools": tools}).tools) == [TOOL]
    for none in (None, [], "", "[]"):
        assert prompt({"prompt": "a", "tools": none}).tools is None


def test_sharegpt_has_speakers_of_its_own_and_a_system_prompt_beside():
    row = {
        "system": "Be brief.",
        "conversations": [
            {"from": "human", "value": "Hello"},
            {"from": "gpt", "value": "Hi!"},
            {"from": "observation", "value": "3"},
        ],
    }
    assert turns(row) == [("system", "Be brief."), *ANSWERED, ("tool", "3")]
    row["conversations"].insert(0, {"from": "system", "value": "Be long."})
    assert turns(row)[0] == ("system", "Be long.")


def test_rows_of_other_stages_files_are_read():
    """Our own prompts.parquet stores calls and tools as text."""
    messages = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "", "tool_calls": json.dumps([CALL])},
        {"role": "tool", "content": "3", "tool_call_id": "c1"},
    ]
    row = {"prompt_id": "x", "split": "train", "messages": messages, "tools": json.dumps([TOOL])}
    assert json.loads(prompt(row).messages[1].tool_calls) == [CALL]


NO_USER = "no user's message at the end, or an empty one"


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ("a", "a JSON str"),
        (None, "a JSON NoneType"),
        (["a"], "a JSON list"),
        ({}, "keys none"),
        ({"prompt": None}, "keys none"),
        ({"text": "a", "id": 3}, "keys text, id"),
        ({"messages": [HELLO], "conversations": [HELLO]}, "keys messages, conversations"),
        ({"prompt": "b", "messages": [HELLO]}, "keys prompt, messages, which disagree"),
        ({"prompt": ""}, NO_USER),
        ({"prompt": " \n\t"}, NO_USER),
        ({"prompt": 3}, "content: Input should be a valid string"),
        ({"messages": []}, NO_USER),
        ({"messages": "a"}, "messages that are not a list"),
        ({"messages": HELLO}, "messages that are not a list"),
        ({"messages": ["a"]}, "message: Input should be a valid dictionary"),
        ({"messages": [ANSWER]}, NO_USER),
        ({"messages": [HELLO, {"role": "system", "content": "a"}]}, NO_USER),
        ({"messages": [{"role": "user", "content": "  "}, ANSWER]}, NO_USER),
        ({"body": {"input": "a"}}, "body without messages"),
        ({"body": "{"}, "text: not JSON"),
        ({"request": 3}, "request without messages"),
        ({"messages": [HELLO], "choices": {"a": 1}}, "choices that are not a list"),
        ({"messages": [HELLO], "choices": [{"text": "a"}]}, "message: Input should be"),
        ({"conversations": "a"}, "conversations that are not a list"),
        ({"conversations": [{"from": "tree", "value": "a"}]}, "role: Input should be 'system'"),
        ({"conversations": [{"from": ["human"], "value": "a"}]}, "role: Input should be"),
        ({"prompt": "a", "tools": "{"}, "text: not JSON"),
        ({"prompt": "a", "tools": {"name": "add"}}, "tools that are not a list"),
        ({"prompt": "a", "tools": [{"type": "web_search"}]}, "a tool without the name"),
        ({"prompt": "a", "license": 3}, "license is not text"),
        ({"prompt": "a", "license": ["MIT"]}, "license is not text"),
        ({"prompt": "a", "source": {}}, "source is not text"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused_with_what_was_found(row, found):
    with pytest.raises(RowError) as caught:
        prompt(row)
    assert str(caught.value).startswith(found)


def test_a_conversation_in_which_nobody_asks_is_refused():
    with pytest.raises(RowError, match="no user's message, or empty ones only"):
        prompt({"messages": [{"role": "user", "content": " "}, ANSWER]}, "any")


def test_source_and_license_of_the_row_are_kept():
    row = {"prompt": "Hello", "source": "a book", "license": "MIT"}
    found = prompt(row)
    assert (found.source, found.license) == ("a book", "MIT")
    assert found.messages == (Message(role="user", content="Hello"),)
