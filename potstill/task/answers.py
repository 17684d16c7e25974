"""The values of metrics: an answer, a prompt with its known answer, a score."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from pydantic import Field

from potstill.json_text import parse_json
from potstill.schema import Message, Value


class ToolCall(Value):
    """One call of a function, as the model wrote it."""

    name: str
    arguments: str = "{}"
    """JSON text."""


class Answer(Value):
    """A model's answer: text, calls of tools, or both."""

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()

    @staticmethod
    def from_message(message: Message) -> Answer:
        """Return the answer in an assistant's message.

        Raises:
            ValueError: Its calls are not what OpenAI's API returns.
        """
        calls = parse_json(message.tool_calls) if message.tool_calls else []
        if not isinstance(calls, list):
            raise ValueError(f"calls of tools that are a JSON {type(calls).__name__}")
        return Answer(text=message.content, tool_calls=tuple(map(_call, calls)))

    def to_message(self) -> Message:
        """Return the answer as an assistant's message, its calls as OpenAI's API spells them."""
        calls = [
            {
                "id": f"call_{number}",
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for number, call in enumerate(self.tool_calls)
        ]
        return Message(
            role="assistant",
            content=self.text,
            tool_calls=json.dumps(calls, ensure_ascii=False) if calls else None,
        )


class Item(Value):
    """One prompt of a task with its known answer."""

    messages: tuple[Message, ...] = Field(min_length=1)
    known: Answer | None = None
    """None if unknown."""


class Score(Value):
    """How good one answer is."""

    value: float = Field(ge=0.0, le=1.0)
    found: str | None = None
    """What the metric read in the answer, such as its label; None when it could read nothing."""
    expected: str | None = None
    """The same part of the known answer."""
    problem: str | None = None
    """Why the value is not 1, in one line; None when it is, or when there is nothing to add."""


def value_at(content: object, path: str) -> object:
    """Return the value at a dotted path of objects, such as `order.status`; None when absent."""
    for key in path.split("."):
        if not isinstance(content, Mapping):
            return None
        content = content.get(key)
    return content


def _call(call: object) -> ToolCall:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ValueError("a call of a tool without function.name")
    arguments = function.get("arguments", "{}")
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return ToolCall(name=function["name"], arguments=arguments)


def folded(text: str) -> str:
    """Return a text without case and surplus white space, to compare it."""
    return " ".join(text.split()).casefold()


def canonical(value: object) -> str:
    """Return one spelling for equal JSON values: sorted keys, 1.0 as 1."""
    return json.dumps(_plain(value), sort_keys=True, ensure_ascii=False)


def _plain(value: object) -> object:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(inner) for inner in value]
    return value
