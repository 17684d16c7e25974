"""Messages and tools as a chat template takes them.

In: a template's source, messages and tools in the form of OpenAI's API. Out: the same with one
order of keys and parsed arguments; for a template without tools, as text in the format of Hermes.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from potstill.json_text import parse_json

INSTRUCTIONS = """\
You may call one or more functions to assist with the user query.
You are given their signatures as JSON within <tools></tools> tags:
<tools>
{tools}
</tools>
For each call, return a JSON object with the function's name and arguments within \
<tool_call></tool_call> tags:
<tool_call>
{{"name": "function-name", "arguments": {{"argument": "value"}}}}
</tool_call>"""
"""System prompt for models whose template has no tools, in the format of Hermes and Qwen."""

FUNCTION_KEYS = ("name", "description", "parameters", "strict")
"""What templates get of a function, in this order: the keys that OpenAI's API has."""

JsonObject = dict[str, Any]


def template_input(
    template: str, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()
) -> tuple[list[JsonObject], list[JsonObject]]:
    """Return messages and tools as a chat template takes them.

    Templates print tools and calls as they get them, so they get OpenAI's keys in one order, and no
    other ones. Arguments become objects, which templates expect (source: transformers'
    documentation of chat templates with tools). A template that does not mention tools gets them in
    the system message, and one that does not mention calls gets calls and results as text.

    Args:
        template: The template's source.
        messages: Role and content of each turn; calls as OpenAI's API spells them.
        tools: The tools, as OpenAI's API spells them.
    """
    shown = [_with_parsed_arguments(message) for message in messages]
    listed = [_ordered_tool(tool) for tool in tools]
    if "tool_calls" not in template:
        shown = _calls_as_text(shown)
    if listed and "tools" not in template:
        return _with_instructions(shown, listed), []
    return shown, listed


def _with_parsed_arguments(message: Mapping[str, Any]) -> JsonObject:
    calls = message.get("tool_calls")
    if not calls:
        return {key: value for key, value in message.items() if key != "tool_calls"}
    return {**message, "tool_calls": [_parsed_call(call) for call in calls]}


def _parsed_call(call: Mapping[str, Any]) -> JsonObject:
    arguments = call["function"].get("arguments")
    if not isinstance(arguments, Mapping):
        # Invalid JSON stays text, which the template may print unchanged.
        with contextlib.suppress(ValueError):
            arguments = parse_json(arguments or "{}")
    function = {"name": call["function"]["name"], "arguments": arguments}
    named = {"id": call["id"]} if call.get("id") else {}
    return {**named, "type": "function", "function": function}


def _ordered_tool(tool: Mapping[str, Any]) -> JsonObject:
    given = tool["function"]
    function = {key: given[key] for key in FUNCTION_KEYS if given.get(key) is not None}
    return {"type": "function", "function": function}


def _with_instructions(
    messages: Sequence[JsonObject], tools: Sequence[JsonObject]
) -> list[JsonObject]:
    signatures = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    instructions = INSTRUCTIONS.format(tools=signatures)
    if messages and messages[0]["role"] == "system":
        first = messages[0]
        return [{**first, "content": f"{first['content']}\n\n{instructions}"}, *messages[1:]]
    return [{"role": "system", "content": instructions}, *messages]


def _calls_as_text(messages: Sequence[JsonObject]) -> list[JsonObject]:
    """Write calls into the answers, and results that follow one another into one user message."""
    written: list[JsonObject] = []
    follows_result = False
    for message in messages:
        is_result = message["role"] == "tool"
        if is_result:
            text = f"<tool_response>\n{message.get('content') or ''}\n</tool_response>"
            if follows_result:
                written[-1]["content"] += f"\n{text}"
            else:
                written.append({"role": "user", "content": text})
        else:
            written.append(_call_as_text(message))
        follows_result = is_result
    return written


def _call_as_text(message: JsonObject) -> JsonObject:
    if "tool_calls" not in message:
        return message
    calls = [
        f"<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>"
        for call in message["tool_calls"]
    ]
    content = message.get("content") or ""
    return {"role": message["role"], "content": "\n".join(filter(None, [content, *calls]))}
