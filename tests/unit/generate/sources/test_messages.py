import json

import pytest

from generate.sources.messages import to_message, tool_calls, tools_text
from generate.sources.rows import RowError


def function(arguments):
    return {"function": {"name": "add", "arguments": arguments}}


def test_text_parts_are_joined_as_our_server_does():
    parts = [{"type": "text", "text": "one"}, {"type": "input_text", "text": "two"}, "three"]
    assert to_message({"role": "user", "content": parts}).content == "one\ntwo\nthree"


@pytest.mark.parametrize(
    ("part", "found"),
    [
        ({"type": "image_url", "image_url": {"url": "data:"}}, "type image_url, which is not text"),
        ({"type": "input_audio", "input_audio": {}}, "type input_audio, which is not text"),
        ({"type": "file", "file": {}}, "type file"),
        ({"type": "text", "text": None}, "without text"),
        ({"text": "a"}, "type None"),
        (3, "type None"),
    ],
)
def test_images_and_sound_are_refused(part, found):
    with pytest.raises(RowError, match=found):
        to_message({"role": "user", "content": [{"type": "text", "text": "a"}, part]})


def test_what_openai_writes_beside_the_text_is_left_alone():
    message = to_message(
        {
            "role": "assistant",
            "content": "Hi!",
            "refusal": None,
            "annotations": [],
            "audio": None,
            "function_call": None,
            "tool_calls": [],
            "name": "bot",
            "weight": 1,
        }
    )
    assert message.to_chat() == {"role": "assistant", "content": "Hi!"}
    assert to_message({"role": "developer", "content": "a"}).role == "system"


def test_an_answer_may_have_no_content_when_it_refuses_or_calls():
    assert to_message({"role": "assistant", "content": None, "refusal": "No."}).content == "No."
    called = to_message({"role": "assistant", "tool_calls": [function("{}")]})
    assert called.content == ""
    for given in ({"role": "user"}, {"role": "assistant", "content": None}):
        with pytest.raises(RowError, match="content: Input should be a valid string"):
            to_message(given)


@pytest.mark.parametrize("key", ["audio", "function_call"])
def test_what_would_be_lost_is_refused(key):
    with pytest.raises(RowError, match=f"a message with {key}"):
        to_message({"role": "assistant", "content": "a", key: {"id": "x"}})


def test_arguments_are_json_text_as_openai_spells_them():
    expected = [{"type": "function", **function('{"city": "Köln"}')}]
    for arguments in ({"city": "Köln"}, '{"city": "Köln"}'):
        assert json.loads(tool_calls([function(arguments)])) == expected
    for arguments in ("", None, {}, "{}"):
        (call,) = json.loads(tool_calls([function(arguments)]))
        assert call["function"]["arguments"] == "{}"


@pytest.mark.parametrize(
    ("calls", "found"),
    [
        ({"name": "add"}, "tool_calls that are not a list"),
        (["add"], "a tool call without the name"),
        ([{"function": {"arguments": "{}"}}], "a tool call without the name"),
        ([function("{")], "text: not JSON"),
        ([function("[1]")], "arguments are not a JSON object"),
        ([function(3)], "arguments are not a JSON object"),
        (3, "tool_calls that are not a list"),
    ],
)
def test_a_call_of_nothing_is_refused(calls, found):
    with pytest.raises(RowError, match=found):
        tool_calls(calls)


def test_no_calls_and_no_tools_are_none():
    for nothing in (None, [], "", "[]", "null"):
        assert tool_calls(nothing) is None
        assert tools_text(nothing) is None


@pytest.mark.parametrize(
    "given",
    [
        {"content": "42", "reasoning_content": "Hm."},
        {"content": "42", "reasoning": "Hm."},
        {"content": "<think>\nHm.\n</think>\n\n42"},
        {"content": "Hm.\n</think>\n\n42"},
    ],
)
def test_the_thinking_of_an_answer_is_apart_from_it(given):
    message = to_message({"role": "assistant", **given})
    assert (message.content, message.reasoning_content) == ("42", "Hm.")
    asked = to_message({"role": "user", "content": "What does </think> do?", "reasoning": "x"})
    assert (asked.content, asked.reasoning_content) == ("What does </think> do?", None)
