"""Convert messages and tools from OpenAI's format: parsed JSON to `Message`s and JSON text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from generate.sources.json_text import parse_json
from generate.sources.rows import RowError
from potstill.errors import first_problem
from potstill.schema import Message
from potstill.thinking import split_any

ROLES = {"developer": "system"}
"""potstill's names of roles that OpenAI has renamed."""
TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Kinds of content parts with text, and the key of the text."""


def to_messages(given: object) -> tuple[Message, ...]:
    """Return a conversation's messages.

    Raises:
        RowError: It is not a list of messages, or one has content other than text.
    """
    if not isinstance(given, list):
        raise RowError("messages that are not a list")
    return tuple(to_message(message) for message in given)


def to_message(given: object) -> Message:
    """Return one message; keys that do not affect its content are ignored.

    Raises:
        RowError: It is not a message, or has content other than text.
    """
    if not isinstance(given, Mapping):
        raise RowError("message: Input should be a valid dictionary")
    for key in ("function_call", "audio"):
        if given.get(key):
            raise RowError(f"a message with {key}")
    calls = tool_calls(given.get("tool_calls"))
    content = given.get("content")
    if content is None and given.get("role") == "assistant":
        # OpenAI omits the content of an answer that calls tools or refuses.
        content = given.get("refusal") or ("" if calls else None)
    role = given.get("role")
    content = _joined(content) if isinstance(content, list) else content
    thinking = given.get("reasoning_content") or given.get("reasoning") or None
    if role == "assistant" and thinking is None and isinstance(content, str):
        thinking, content = split_any(content)
    fields = {
        "role": ROLES.get(role, role) if isinstance(role, str) else role,
        "content": content,
        "reasoning_content": thinking if role == "assistant" else None,
        "tool_calls": calls,
        "tool_call_id": given.get("tool_call_id"),
    }
    try:
        return Message.model_validate(fields)
    except ValidationError as error:
        raise RowError(first_problem(error)) from error


def tool_calls(given: object) -> str | None:
    """Return an assistant's tool calls as JSON text; None if there are none.

    Raises:
        RowError: They are not a list of function calls.
    """
    return _functions(given, "tool_calls", _call)


def tools_text(given: object) -> str | None:
    """Return the definitions of tools as JSON text; None if there are none.

    Raises:
        RowError: They are not a list of functions.
    """
    return _functions(given, "tools", _definition)


def parsed(value: object) -> Any:  # noqa: ANN401  (JSON has any type)
    """Parse JSON text, which tables often store for nested values; return other values as is."""
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value)
    except RowError as error:
        raise RowError(f"text: {error}") from error


def _functions(given: object, key: str, checked: Callable[[object], dict[str, Any]]) -> str | None:
    values = parsed(given) if given else None
    if not values:
        return None
    if not isinstance(values, list):
        raise RowError(f"{key} that are not a list")
    return json.dumps([checked(value) for value in values], ensure_ascii=False)


def _call(given: object) -> dict[str, Any]:
    call = given if isinstance(given, Mapping) else {}
    function = _named(call.get("function"), "a tool call")
    arguments = parsed(function.get("arguments") or "{}")
    if not isinstance(arguments, Mapping):
        raise RowError("a tool call whose arguments are not a JSON object")
    text = function.get("arguments") or "{}"
    if not isinstance(text, str):
        text = json.dumps(arguments, ensure_ascii=False)
    head = {} if call.get("id") is None else {"id": call["id"]}
    return {**head, "type": "function", "function": {"name": function["name"], "arguments": text}}


def _definition(given: object) -> dict[str, Any]:
    if isinstance(given, Mapping) and "function" not in given:
        given = {"type": "function", "function": given}
    tool = dict(given) if isinstance(given, Mapping) else {}
    _named(tool.get("function"), "a tool")
    return tool


def _named(function: object, what: str) -> Mapping[str, Any]:
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RowError(f"{what} without the name of a function")
    return function


def _joined(parts: list[Any]) -> str:
    """Join the text parts of a message by newlines, as `serve` does."""
    return "\n".join(_part_text(part) for part in parts)


def _part_text(part: object) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(part, Mapping) or not isinstance(kind, str) or kind not in TEXT_PARTS:
        raise RowError(f"a content part of type {kind}, which is not text")
    text = part.get(TEXT_PARTS[kind])
    if not isinstance(text, str):
        raise RowError("a content part without text")
    return text
