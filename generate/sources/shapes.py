"""Convert rows of all known formats, as parsed JSON, to `RawPrompt`s."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from generate.sources.messages import parsed, to_message, to_messages, tools_text
from generate.sources.raw_prompt import RawPrompt
from generate.sources.rows import RowError
from potstill.schema import Message
from potstill.task.items import known_answer

LastRole = Literal["user", "assistant", "any"]
"""Role of the last message of a conversation: the user (or a tool), or the assistant."""
Row = Mapping[str, Any]

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
SHAREGPT_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "observation": "tool",
    "function_response": "tool",
}
"""Roles by ShareGPT's names, in addition to OpenAI's."""


@dataclass(frozen=True)
class _Found:
    """The conversation in a row."""

    messages: tuple[Message, ...]
    tools: object = None


def to_prompt(
    values: object, *, last_role: LastRole, source: str, has_tools: bool = False
) -> RawPrompt:
    """Return the prompt in a row, with its known answer under `answer`.

    Unknown keys are ignored; null is the same as absent.

    Args:
        last_role: "user" removes a final answer: the teacher answers again.
        source: Source of a row without one.
        has_tools: Whether a known answer may be a call of a tool that the row does not define.

    Raises:
        RowError: The row has no known format, or no usable prompt.
    """
    if isinstance(values, RowError):
        raise values
    if not isinstance(values, Mapping):
        raise RowError(f"a JSON {type(values).__name__}")
    row = {key: value for key, value in values.items() if value is not None}
    found = _read(row)
    tools = tools_text(found.tools)
    known = known_answer(row.get("answer"), has_tools=has_tools or tools is not None)
    return RawPrompt(
        messages=_ended(found.messages, last_role),
        source=_text(row, "source") or source,
        license=_text(row, "license") or _text(row, "licence"),
        tools=tools,
        known=known.model_dump_json() if known else None,
    )


def _read(row: Row) -> _Found:
    shapes = [shape for shape in SHAPES if shape in row]
    if len(shapes) == 2 and shapes[0] == "prompt":
        return _beside_its_prompt(row, shapes[1])
    if len(shapes) != 1:
        raise RowError(f"keys {', '.join(row) or 'none'}")
    return SHAPES[shapes[0]](row)


def _beside_its_prompt(row: Row, shape: str) -> _Found:
    """Read UltraChat's format, in which `prompt` repeats the first question."""
    found = SHAPES[shape](row)
    questions = [message.content for message in found.messages if message.role == "user"]
    if row["prompt"] not in questions:
        raise RowError(f"keys {', '.join(row)}, which disagree")
    return found


def _prompt(row: Row) -> _Found:
    """Read `prompt`: a text, or messages."""
    prompt = row["prompt"]
    if not isinstance(prompt, list):
        prompt = [{"role": "user", "content": prompt}]
    return _Found(to_messages(prompt), row.get("tools"))


def _messages(row: Row) -> _Found:
    """Read `messages`, with optional `choices`: a stored chat of OpenAI's."""
    return _Found(to_messages(row["messages"]) + _answer(row), row.get("tools"))


def _batch_line(row: Row) -> _Found:
    """Read `body`: a line of an OpenAI batch input file."""
    return _request(row["body"], "body")


def _exchange(row: Row) -> _Found:
    """Read `request` and `response`: a line of `serve.record_path`, or of another server's log."""
    found = _request(row["request"], "request")
    response = parsed(row.get("response"))
    if isinstance(response, Mapping) and "body" in response:  # as in batch output files
        response = parsed(response["body"])
    answer = _answer(response) if isinstance(response, Mapping) else ()
    return _Found(found.messages + answer, found.tools)


def _request(given: object, key: str) -> _Found:
    body = parsed(given)
    if not isinstance(body, Mapping) or "messages" not in body:
        raise RowError(f"{key} without messages")
    return _Found(to_messages(body["messages"]), body.get("tools"))


def _answer(completion: Row) -> tuple[Message, ...]:
    """Return the messages of the first choice of a chat completion; none without choices."""
    choices = completion.get("choices")
    if not choices:
        return ()
    if not isinstance(choices, Sequence) or not isinstance(choices[0], Mapping):
        raise RowError("choices that are not a list")
    return (to_message(choices[0].get("message")),)


def _turns(key: str) -> Callable[[Row], _Found]:
    """Return a reader of ShareGPT's turns, `from` and `value`, or of messages under their key."""

    def read(row: Row) -> _Found:
        turns = row[key]
        if not isinstance(turns, list):
            raise RowError(f"{key} that are not a list")
        messages = to_messages([_from_sharegpt(turn) for turn in turns])
        system = _text(row, "system")
        if system and messages and messages[0].role != "system":
            messages = (Message(role="system", content=system), *messages)
        return _Found(messages, row.get("tools"))

    return read


def _from_sharegpt(turn: object) -> object:
    speaker = turn.get("from") if isinstance(turn, Mapping) else None
    if not isinstance(turn, Mapping) or not isinstance(speaker, str):
        return turn
    return {"role": SHAREGPT_ROLES.get(speaker, speaker), "content": turn.get("value")}


SHAPES: dict[str, Callable[[Row], _Found]] = {
    "prompt": _prompt,
    "messages": _messages,
    "body": _batch_line,
    "request": _exchange,
    "conversations": _turns("conversations"),
    "conversation": _turns("conversation"),
}
"""Readers of rows, by the key that identifies the format."""
COLUMNS = frozenset(SHAPES) | {
    "answer", "choices", "licence", "license", "response", "source", "system", "tools"
}  # fmt: skip
"""All keys that are read; other columns of tables are skipped."""


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


def _text(row: Row, key: str) -> str | None:
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise RowError(f"{key} is not text")
    return value
