"""Rows with ShareGPT's `conversations`: turns with `from` and `value`, or messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from generate.sources.formats.reader import Reader, Row, Trace, listed, text_or_none
from generate.sources.messages import to_messages
from potstill.schema import Message

KEYS = ("conversations", "conversation")
ROLES = {
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


def _reader(key: str) -> Reader:
    def read(row: Row) -> Iterable[Trace]:
        messages = to_messages([_message(turn) for turn in listed(row[key], key)])
        system = text_or_none(row, "system")
        if system and messages and messages[0].role != "system":
            messages = (Message(role="system", content=system), *messages)
        yield Trace(messages, tools=row.get("tools"))

    return Reader(key, lambda row: key in row, read, frozenset({key, "system", "tools"}))


def _message(turn: object) -> object:
    speaker = turn.get("from") if isinstance(turn, Mapping) else None
    if not isinstance(turn, Mapping) or not isinstance(speaker, str):
        return turn
    return {"role": ROLES.get(speaker, speaker), "content": turn.get("value")}


READERS = tuple(map(_reader, KEYS))
