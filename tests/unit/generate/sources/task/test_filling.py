"""Dialogues whose turns fill in one call."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generate.sources.task.filling import filled_in, is_filled_in
from potstill.schema import Message
from potstill.task.answers import Answer, ToolCall

USER = Message(role="user", content="Hi")


def call(name: str, **arguments: object) -> Answer:
    return Answer(tool_calls=(ToolCall(name=name, arguments=json.dumps(arguments)),))


@given(st.integers(0, 2**32), st.integers(2, 4), st.integers(1, 4))
def test_each_turn_adds_arguments_until_the_call_is_whole(seed, num_turns, num_arguments):
    arguments = dict(zip("abcd", range(num_arguments), strict=False))
    known = call("pay", **arguments)
    messages = filled_in(known.tool_calls[0], num_turns, random.Random(seed))
    assert is_filled_in(messages, known)
    assert len(messages) == 2 * min(num_turns, num_arguments + 1) - 1
    assert [one.role for one in messages] == ["user", "assistant"] * (len(messages) // 2) + ["user"]
    sizes = [
        len(json.loads(Answer.from_message(one).tool_calls[0].arguments)) for one in messages[1::2]
    ]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] < num_arguments


def test_a_call_without_arguments_is_asked_for_at_once():
    assert filled_in(call("greet").tool_calls[0], 3, random.Random(0)) == (
        Message(role="user", content=""),
    )


@pytest.mark.parametrize(
    ("between", "known", "expected"),
    [
        (call("pay"), call("pay", a=1), True),
        (call("pay", a=1), call("pay", a=1, b=2), True),
        (call("pay", a=1), call("pay", a=2), False),
        (call("pay"), call("send", a=1), False),
        (Answer(text="Which one?"), call("pay", a=1), False),
        (call("pay"), Answer(text="Paid."), False),
    ],
)
def test_a_dialogue_is_read(between, known, expected):
    assert is_filled_in((USER, between.to_message(), USER), known) is expected
    assert not is_filled_in((USER,), known)
