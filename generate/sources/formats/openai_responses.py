"""Requests and answers of OpenAI's Responses API: lists of items in place of messages.

Source: OpenAI's API reference, responses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from generate.sources.formats.reader import (
    Reader,
    Row,
    Trace,
    error_text,
    function_call,
    kind_of,
    listed,
    mapping,
    model_name,
)
from generate.sources.messages import to_messages
from generate.sources.rows import RowError
from potstill.schema import Message

SKIPPED = {"item_reference", "compaction"}
"""Kinds of items without content."""


def responses_request(body: Row) -> Trace:
    """Return the request of a body with `input`."""
    given = body["input"]
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    messages = _messages(listed(items, "input"))
    if body.get("instructions"):
        messages = ({"role": "system", "content": body["instructions"]}, *messages)
    return Trace(to_messages(list(messages)), tools=_tools(body.get("tools")))


def responses_answer(response: Row) -> tuple[Message, ...]:
    """Return the answer in a response's `output`; none if there is no item of the model's."""
    return to_messages(list(_messages(listed(response.get("output") or [], "output"))))


def _messages(items: Iterable[object]) -> tuple[dict[str, Any], ...]:
    """Return messages as the chat API spells them; a model's successive items are one."""
    messages: list[dict[str, Any]] = []
    for item in items:
        message = _message(item)
        last = messages[-1] if messages else {}
        if message.get("role") == "assistant" == last.get("role"):
            for key in ("content", "reasoning_content", "tool_calls"):
                last.setdefault(key, []).extend(message.get(key, []))
        elif message:
            messages.append(message)
    for message in messages:
        if message.get("role") == "assistant":
            message["reasoning_content"] = "\n".join(message.get("reasoning_content", []))
            message["content"] = message.get("content") or ""
    return tuple(messages)


def _message(item: object) -> dict[str, Any]:
    if not isinstance(item, Mapping):
        raise RowError("an item that is not an object")
    kind = kind_of(item) or "message"
    if kind == "message":
        content = item.get("content")
        if item.get("role") == "assistant":
            content = list(content) if isinstance(content, list) else [content or ""]
        return {"role": item.get("role"), "content": content}
    if kind == "function_call":
        call = function_call(item.get("call_id"), item.get("name"), item.get("arguments"))
        return {"role": "assistant", "tool_calls": [call]}
    if kind == "function_call_output":
        return {
            "role": "tool",
            "tool_call_id": item.get("call_id"),
            "content": item.get("output"),
        }
    if kind == "reasoning":
        parts = item.get("content") or item.get("summary") or []
        texts = [str(mapping(part).get("text", "")) for part in listed(parts, "reasoning")]
        return {"role": "assistant", "reasoning_content": texts}
    if kind in SKIPPED:
        return {}
    raise RowError(f"an item of type {kind}, which is neither text nor a function's")


def _tools(tools: object) -> object:
    """Return the definitions with `function` as a key of its own, as the chat API has it."""
    if not isinstance(tools, list):
        return tools
    return [
        {"type": "function", "function": {key: one[key] for key in one if key != "type"}}
        if isinstance(one, Mapping) and one.get("type") == "function"
        else one
        for one in tools
    ]


def _read(row: Row) -> Iterable[Trace]:
    request = responses_request(row)
    yield Trace(
        request.messages,
        responses_answer(row),
        request.tools,
        model_name(row.get("model")),
        error_text(row.get("error")),
    )


READER = Reader(
    "OpenAI's responses",
    lambda row: "input" in row and (row.get("object") == "response" or "instructions" in row),
    _read,
    frozenset({"input", "output", "instructions", "tools", "model", "object", "error"}),
)
