"""Requests and answers of Anthropic's Messages API, and lines of its batches.

Source: Anthropic's API reference, messages and message batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from generate.sources.formats.reader import (
    Reader,
    Row,
    Trace,
    function_call,
    kind_of,
    listed,
    mapping,
    model_name,
)
from generate.sources.messages import to_messages
from potstill.schema import Message

OWN_BLOCKS = {"tool_use", "tool_result", "thinking", "redacted_thinking"}
"""Kinds of content blocks that the chat API does not have."""


def is_anthropic(body: Row) -> bool:
    """Return whether a request with `messages` is Anthropic's rather than OpenAI's."""
    if "system" in body:
        return True
    tools = body.get("tools")
    if isinstance(tools, list) and any("input_schema" in mapping(tool) for tool in tools):
        return True
    messages = body.get("messages")
    return isinstance(messages, list) and any(
        kind_of(block) in OWN_BLOCKS
        for message in messages
        for block in _blocks(mapping(message).get("content"))
    )


def is_answer(body: Row) -> bool:
    """Return whether a response is Anthropic's message."""
    return isinstance(body.get("content"), list) and body.get("role") == "assistant"


def anthropic_request(body: Row) -> Trace:
    """Return the request of a body of the Messages API."""
    given = listed(body.get("messages"), "messages")
    messages = [plain for message in given for plain in _messages(message)]
    if body.get("system") and mapping(next(iter(messages), None)).get("role") != "system":
        messages.insert(0, {"role": "system", "content": body["system"]})
    return Trace(
        to_messages(messages), tools=_tools(body.get("tools")), model=model_name(body.get("model"))
    )


def anthropic_answer(message: Row) -> tuple[Message, ...]:
    """Return the answer; none if it is empty."""
    return to_messages(_messages({"role": "assistant", "content": message.get("content")}))


def _messages(given: object) -> list[object]:
    """Return a message as the chat API spells it; results of tools become messages."""
    if not isinstance(given, Mapping) or not isinstance(given.get("content"), list):
        return [given]
    blocks = given["content"]
    kept = [one for one in blocks if kind_of(one) not in OWN_BLOCKS]
    if given.get("role") != "assistant":
        results: list[object] = [
            {
                "role": "tool",
                "tool_call_id": one.get("tool_use_id"),
                "content": one.get("content") or "",
            }
            for one in blocks
            if kind_of(one) == "tool_result"
        ]
        said = [{"role": given.get("role"), "content": kept}] if kept or not results else []
        return [*results, *said]
    thoughts = [str(one.get("thinking", "")) for one in _of(blocks, "thinking")]
    calls = [_call(one) for one in _of(blocks, "tool_use")]
    return [
        {
            "role": "assistant",
            "content": kept,
            "tool_calls": calls,
            "reasoning_content": "\n".join(thoughts),
        }
    ]


def _call(block: Row) -> dict[str, Any]:
    return function_call(block.get("id"), block.get("name"), block.get("input") or {})


def _of(blocks: Iterable[object], kind: str) -> list[Row]:
    return [mapping(one) for one in blocks if kind_of(one) == kind]


def _blocks(content: object) -> list[Any]:
    return content if isinstance(content, list) else []


def _tools(tools: object) -> object:
    if not isinstance(tools, list):
        return tools
    return [_definition(tool) for tool in tools]


def _definition(tool: object) -> object:
    if not isinstance(tool, Mapping) or "input_schema" not in tool:
        return tool
    function = {key: tool[key] for key in ("name", "description") if key in tool}
    return {"type": "function", "function": {**function, "parameters": tool["input_schema"]}}


def _read(row: Row) -> Iterable[Trace]:
    yield anthropic_request(row)


READER = Reader(
    "Anthropic's messages",
    lambda row: "messages" in row and is_anthropic(row),
    _read,
    frozenset({"messages", "system", "tools", "model"}),
)
