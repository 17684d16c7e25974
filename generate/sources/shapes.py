"""Convert rows of all known formats, as parsed JSON, to `RawPrompt`s."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from generate.sources.formats.reader import Trace, mapping, text_or_none
from generate.sources.formats.registry import read_row
from generate.sources.messages import tools_text
from generate.sources.raw_prompt import RawPrompt
from generate.sources.rows import RowError
from potstill.schema import Message
from potstill.task.items import known_answer

LastRole = Literal["user", "assistant", "any"]
"""Role of the last message of a conversation: the user (or a tool), or the assistant."""
LAST_ROLES: dict[str, LastRole] = {
    "single": "user",
    "simulate": "user",
    "replay": "any",
    "score": "assistant",
}
"""Role of the last message of a prompt, by `generate.turns.kind`."""

EXPECTED = {
    "user": '{"prompt": "..."} or {"messages": [{"role": "user", "content": "..."}]} on each line, '
    "a line of OpenAI's batch files, or a stored chat; the last message the user's or a tool's, "
    "after the removal of a final answer",
    "assistant": '{"messages": [..., {"role": "assistant", "content": "..."}]} on each line, or a '
    "stored chat; the last message is the assistant's",
    "any": '{"messages": [{"role": "user", "content": "..."}, ...]} on each line, or a stored '
    "chat; at least one user message",
}
"""Accepted rows, by the role of the last message."""


def to_prompts(
    values: object, *, last_role: LastRole, source: str, has_tools: bool = False
) -> Iterator[RawPrompt | RowError]:
    """Yield the prompts in a row, each with the row's known answer under `answer`.

    Unknown keys are ignored; null is the same as absent. A row of a log may have several requests
    or none. What has no known format or no usable prompt is yielded as an error.

    Args:
        last_role: "user" removes a final answer: the teacher answers again. "assistant" yields one
            prompt per answer.
        source: Source of a row without one.
        has_tools: Whether a known answer may be a call of a tool that the row does not define.
    """
    row = mapping(values)
    for found in read_row(values):
        try:
            if isinstance(found, RowError):
                raise found
            tools = tools_text(found.tools)
            known = known_answer(row.get("answer"), has_tools=has_tools or tools is not None)
            for messages in _conversations(found, last_role):
                yield RawPrompt(
                    messages=_ended(messages, last_role),
                    source=text_or_none(row, "source") or source,
                    license=text_or_none(row, "license") or text_or_none(row, "licence"),
                    tools=tools,
                    known=known.model_dump_json() if known else None,
                )
        except RowError as error:
            yield error


def _conversations(found: Trace, last_role: LastRole) -> list[tuple[Message, ...]]:
    """Return the request with each of its answers, or with the first where one is enough."""
    if last_role == "user" or not found.answers:
        return [found.messages]
    answers = found.answers if last_role == "assistant" else found.answers[:1]
    return [(*found.messages, answer) for answer in answers]


def _ended(messages: tuple[Message, ...], last_role: LastRole) -> tuple[Message, ...]:
    """Check a conversation's last message; remove a final answer if the user's is expected."""
    if last_role == "assistant":
        if not messages or messages[-1].role != "assistant":
            raise RowError("no assistant's message at the end")
        return messages
    if last_role == "any":
        if not any(_asks(message) for message in messages):
            raise RowError("no user's message, or empty ones only")
        return messages
    while messages and messages[-1].role == "assistant":
        messages = messages[:-1]
    if not messages or not (_asks(messages[-1]) or messages[-1].role == "tool"):
        raise RowError("no user's message at the end, or an empty one")
    return messages


def _asks(message: Message) -> bool:
    return message.role == "user" and bool(message.content.strip())
