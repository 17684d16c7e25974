"""Messages in OpenTelemetry's attributes and events, in today's spelling and in earlier ones.

- `gen_ai.input.messages`, `gen_ai.output.messages`, `gen_ai.system_instructions` and
  `gen_ai.tool.definitions`, on spans or on `gen_ai.client.inference.operation.details`;
- one event for each message, `gen_ai.user.message` … `gen_ai.choice`;
- `gen_ai.prompt` and `gen_ai.completion` as JSON text in events, the first spelling;
- numbered attributes: OpenLLMetry's `gen_ai.prompt.0.content`, OpenInference's
  `llm.input_messages.0.message.content`.

Source: OpenTelemetry semantic conventions for generative AI 1.27 to 1.38; OpenLLMetry's
`SpanAttributes`; OpenInference's semantic conventions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from generate.sources.formats.reader import (
    Row,
    Trace,
    error_text,
    function_call,
    listed,
    mapping,
    model_name,
)
from generate.sources.messages import parsed, to_message, to_messages
from generate.sources.rows import RowError

MESSAGE_EVENTS = {
    f"gen_ai.{role}.message": role for role in ("system", "user", "assistant", "tool")
}
CHOICE_EVENT = "gen_ai.choice"
MAX_DIGITS = 6
"""Of a message's number in attributes."""
MAX_DOTS = 12
"""Of a numbered attribute's name."""


@dataclass(frozen=True)
class Event:
    """An event of a span, or a log record."""

    name: str
    attributes: dict[str, Any]
    body: Any = None

    @property
    def content(self) -> Row:
        """The body; without one what the attributes hold, as JSON text or apart."""
        if isinstance(self.body, dict):
            return self.body
        text = self.attributes.get("gen_ai.event.content")
        return mapping(parsed(text)) if text else self.attributes


@dataclass(frozen=True)
class Recorded:
    """What was recorded of one request, or of something else."""

    name: str
    attributes: dict[str, Any]
    events: list[Event]
    error: str | None


def read_recorded(one: Recorded) -> Iterator[Trace]:
    """Yield the request with its answers; nothing if no request's messages were recorded."""
    spelled = next(filter(None, (found(one) for found in SPELLINGS)), None)
    if spelled is None:
        return
    messages, choices, tools = spelled
    if not messages:
        raise RowError("answers without the request's messages")
    failed = one.error or one.attributes.get("error.type")
    yield Trace(
        to_messages(messages),
        tuple(to_message({"role": "assistant", **choice}) for choice in choices),
        tools or parsed(one.attributes.get("gen_ai.tool.definitions")),
        _model(one),
        error_text(failed),
    )


def _model(one: Recorded) -> str | None:
    for attributes in (one.attributes, *(event.attributes for event in one.events)):
        for key in ("gen_ai.response.model", "gen_ai.request.model", "llm.model_name"):
            if name := model_name(attributes.get(key)):
                return name
    return None


Spelled = tuple[list[Any], list[Any], object]
"""Messages, choices and definitions of tools, as OpenAI spells them."""


def _in_parts(one: Recorded) -> Spelled | None:
    for attributes in (one.attributes, *(event.attributes for event in one.events)):
        if "gen_ai.input.messages" not in attributes:
            continue
        asked = _list(attributes["gen_ai.input.messages"])
        system = _list(attributes.get("gen_ai.system_instructions"))
        messages = [plain for given in asked for plain in _from_parts(mapping(given))]
        if system:
            messages.insert(0, {"role": "system", "content": _text(system)})
        outputs = _list(attributes.get("gen_ai.output.messages"))
        choices = [plain for given in outputs for plain in _from_parts(mapping(given))]
        return messages, choices, parsed(attributes.get("gen_ai.tool.definitions"))
    return None


def _from_parts(message: Row) -> Iterator[dict[str, Any]]:
    results: list[Row] = []
    calls: list[Row] = []
    thoughts: list[Row] = []
    texts: list[Row] = []
    by_kind = {"tool_call_response": results, "tool_call": calls, "reasoning": thoughts}
    for part in map(mapping, _list(message.get("parts"))):
        by_kind.get(str(part.get("type")), texts).append(part)
    for part in results:
        result = part.get("response", part.get("result"))
        yield {"role": "tool", "tool_call_id": part.get("id"), "content": _as_text(result)}
    if results and not texts:
        return
    yield {
        "role": message.get("role"),
        "content": [{**part, "text": part.get("content")} for part in texts],
        "tool_calls": [_call(part) for part in calls],
        "reasoning_content": _text(thoughts),
    }


def _call(part: Row) -> dict[str, Any]:
    return function_call(part.get("id"), part.get("name"), part.get("arguments") or {})


def _in_events(one: Recorded) -> Spelled | None:
    asked: list[Any] = []
    choices: dict[str, Any] = {}
    for event in one.events:
        content = event.content
        if event.name in MESSAGE_EVENTS:
            role = content.get("role") or MESSAGE_EVENTS[event.name]
            asked.append(
                {"content": None, **content, "role": role, "tool_call_id": content.get("id")}
            )
        elif event.name == CHOICE_EVENT:
            message = parsed(content.get("message"))
            choices[str(content.get("index", len(choices)))] = {**content, **mapping(message)}
    if not asked and not choices:
        return None
    return asked, [{"content": None, **one} for one in choices.values()], None


def _in_texts(one: Recorded) -> Spelled | None:
    attributes = dict(one.attributes)
    for event in one.events:
        attributes.update(event.attributes)
    if "gen_ai.prompt" not in attributes:
        return None
    asked = _list(attributes["gen_ai.prompt"])
    return asked, _list(attributes.get("gen_ai.completion")), None


def _numbered(asked: str, answered: str, tools: str) -> Callable[[Recorded], Spelled | None]:
    """Return a reader of attributes such as `gen_ai.prompt.0.content`, by their prefixes."""

    def read(one: Recorded) -> Spelled | None:
        tree = _tree(one.attributes, (asked, answered, tools))
        if not tree[asked]:
            return None
        messages = [_message(given) for given in _in_order(tree[asked])]
        choices = [_message(given) for given in _in_order(tree[answered])]
        return messages, choices, [_definition(given) for given in _in_order(tree[tools])]

    return read


def _tree(attributes: Row, prefixes: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Return nested dictionaries of the attributes under prefixes, split at their dots."""
    trees: dict[str, dict[str, Any]] = {prefix: {} for prefix in prefixes}
    for key, value in attributes.items():
        for prefix in prefixes:
            if not key.startswith(prefix + "."):
                continue
            *path, last = key.removeprefix(prefix + ".").split(".", MAX_DOTS)
            node = trees[prefix]
            for part in path:
                inner = node.setdefault(part, {})
                node = inner if isinstance(inner, dict) else {}
            node[last] = value
    return trees


def _in_order(tree: object) -> list[Row]:
    found = mapping(tree)
    numbers = sorted(int(key) for key in found if key.isdecimal() and len(key) < MAX_DIGITS)
    return [mapping(found.get(str(number))) for number in numbers]


def _message(given: Row) -> dict[str, Any]:
    fields = mapping(given.get("message")) or given
    content = fields.get("content")
    if isinstance(content, str) and content[:1] == "[":
        content = _parts(content)
    parts = [mapping(one.get("message_content")) for one in _in_order(fields.get("contents"))]
    return {
        "role": fields.get("role"),
        "content": [dict(part) for part in parts] if parts else content,
        "tool_calls": [_numbered_call(one) for one in _in_order(fields.get("tool_calls"))],
        "tool_call_id": fields.get("tool_call_id"),
        "reasoning_content": fields.get("reasoning"),
    }


def _parts(text: str) -> object:
    """Return the content's parts where a text is a JSON list of them."""
    try:
        values = parsed(text)
    except RowError:
        return text
    return values if all(isinstance(mapping(one).get("type"), str) for one in values) else text


def _numbered_call(given: Row) -> dict[str, Any]:
    call = mapping(given.get("tool_call")) or given
    function = mapping(call.get("function")) or call
    arguments = function.get("arguments") or "{}"
    return function_call(call.get("id"), function.get("name"), arguments)


def _definition(given: Row) -> object:
    if schema := mapping(given.get("tool")).get("json_schema"):
        return parsed(schema)
    function = {key: given[key] for key in ("name", "description") if key in given}
    return {**function, "parameters": parsed(given.get("parameters")) or {}}


def _list(value: object) -> list[Any]:
    return listed(parsed(value) if value else [], "messages")


def _text(parts: Sequence[object]) -> str:
    return "\n".join(str(mapping(part).get("content", "")) for part in parts)


def _as_text(value: object) -> object:
    return value if isinstance(value, str) or value is None else json.dumps(value)


SPELLINGS: tuple[Callable[[Recorded], Spelled | None], ...] = (
    _in_parts,
    _in_events,
    _in_texts,
    _numbered("llm.input_messages", "llm.output_messages", "llm.tools"),
    _numbered("gen_ai.prompt", "gen_ai.completion", "llm.request.functions"),
)
