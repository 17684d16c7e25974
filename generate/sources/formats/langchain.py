"""LangChain's messages, as its tracers write them: to messages of the chat API.

Source: langchain_core 1.x, `messages_to_dict`, `dumpd` and the tracers' inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Mapping

from generate.sources.formats.reader import Row, function_call, kind_of, mapping

ROLES = {
    "human": "user", "ai": "assistant", "system": "system", "tool": "tool", "function": "tool",
    "HumanMessage": "user", "AIMessage": "assistant", "SystemMessage": "system",
    "ToolMessage": "tool", "HumanMessageChunk": "user", "AIMessageChunk": "assistant",
}  # fmt: skip


def plain_messages(given: object) -> object:
    """Return messages as the chat API spells them; those that already are stay as they are.

    Args:
        given: A list of messages, or a list with one such list.
    """
    if isinstance(given, list) and len(given) == 1 and isinstance(given[0], list):
        given = given[0]
    return [plain_message(one) for one in given] if isinstance(given, list) else given


def plain_message(given: object) -> object:
    """Return one message."""
    if not isinstance(given, Mapping) or "role" in given:
        return given
    kind, fields = given.get("type"), given
    if kind == "constructor":  # dumpd: the class at the end of `id`, its arguments in `kwargs`
        path = given.get("id")
        kind = path[-1] if isinstance(path, list) and path else None
        fields = mapping(given.get("kwargs"))
    elif "data" in given:
        fields = mapping(given["data"])
    if kind == "chat" or not isinstance(kind, str):
        return {**fields, "role": fields.get("role")}
    extra = mapping(fields.get("additional_kwargs"))
    calls = fields.get("tool_calls") or extra.get("tool_calls") or []
    return {
        "role": ROLES.get(kind, kind),
        "content": _content(fields.get("content")),
        "tool_calls": [_call(one) for one in calls] if isinstance(calls, list) else calls,
        "tool_call_id": fields.get("tool_call_id"),
        "reasoning_content": extra.get("reasoning_content"),
    }


def _content(content: object) -> object:
    """Return content without the blocks that repeat calls of tools."""
    if not isinstance(content, list):
        return content
    return [one for one in content if kind_of(one) not in ("tool_use", "tool_call")]


def _call(call: object) -> object:
    if not isinstance(call, Mapping) or "function" in call:
        return call
    return function_call(call.get("id"), call.get("name"), call.get("args") or {})


def generations(outputs: Row) -> list[object]:
    """Return the messages of a tracer's `generations`: one list of choices for each prompt."""
    found = outputs.get("generations")
    if isinstance(found, list) and found and isinstance(found[0], list):
        found = found[0]
    chosen = [mapping(one) for one in found] if isinstance(found, list) else []
    return [
        plain_message(one["message"])
        if one.get("message")
        else {"role": "assistant", "content": one.get("text")}
        for one in chosen
    ]
