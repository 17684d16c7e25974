"""Replace personal data in prompts: all turns, arguments of tool calls, tools, known answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from generate.curation.config import PiiKind
from generate.curation.pii import PersonalData, redact
from generate.sources.raw_prompt import RawPrompt
from potstill.schema import Message
from potstill.task.answers import Answer

Redact = Callable[[str], str]


def redact_prompt(
    prompt: RawPrompt, personal_data: PersonalData
) -> tuple[RawPrompt, tuple[PiiKind, ...]]:
    """Return a prompt without personal data, and the kinds that were replaced.

    A number in JSON that is personal data becomes a string.
    """
    kinds: dict[PiiKind, None] = {}

    def redacted(text: str) -> str:
        spans = personal_data.find(text)
        kinds.update(dict.fromkeys(span.kind for span in spans))
        return redact(text, spans)

    messages = tuple(_message(message, redacted) for message in prompt.messages)
    tools = prompt.tools and _json_text(prompt.tools, redacted)
    # The answer may repeat text of the prompt, which the teacher and the student read redacted.
    known = prompt.known and _known(prompt.known, redacted)
    changed = replace(prompt, messages=messages, tools=tools, known=known)
    return (changed if kinds else prompt), tuple(kinds)


def _known(known: str, redacted: Redact) -> str:
    answer = Answer.model_validate_json(known)
    calls = tuple(
        call.model_copy(update={"arguments": _json_text(call.arguments, redacted)})
        for call in answer.tool_calls
    )
    changes = {"text": _text(answer.text, redacted), "tool_calls": calls}
    return answer.model_copy(update=changes).model_dump_json()


def _text(text: str, redacted: Redact) -> str:
    """Redact an answer that may be JSON, so that it stays JSON."""
    try:
        return _json_text(text, redacted)
    except (ValueError, RecursionError):
        return redacted(text)


def _message(message: Message, redacted: Redact) -> Message:
    changes = {"content": redacted(message.content)}
    if message.tool_calls is not None:
        calls = json.loads(message.tool_calls)
        for call in calls:
            call["function"]["arguments"] = _json_text(call["function"]["arguments"], redacted)
        changes["tool_calls"] = json.dumps(calls, ensure_ascii=False)
    return message.model_copy(update=changes)


def _json_text(text: str, redacted: Redact) -> str:
    value = json.loads(text)
    changed = _json(value, redacted)
    return text if changed == value else json.dumps(changed, ensure_ascii=False)


def _json(value: Any, redacted: Redact) -> Any:  # noqa: ANN401  (JSON has any type)
    if isinstance(value, dict):
        return {redacted(key): _json(one, redacted) for key, one in value.items()}
    if isinstance(value, list):
        return [_json(one, redacted) for one in value]
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, int) and (text := redacted(str(value))) != str(value):
        return text
    return value
