"""Prompts as sources give them, and when two of them are the same."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from potstill.files import sha256_bytes
from potstill.schema import Message

SIGNS = "#%&*-/@"
"""Characters that Unicode classes as punctuation but that can change the meaning of a prompt."""
ID_DIGITS = 16
"""Hex digits of a prompt's id: 64 bits keep a billion prompts apart."""


class _Spacing(dict[int, str | int]):
    """A translation table from punctuation to spaces, filled on demand."""

    def __missing__(self, code: int) -> str | int:
        letter = chr(code)
        separates = unicodedata.category(letter)[0] in "PZC" and letter not in SIGNS
        return self.setdefault(code, " " if separates else code)


_SPACING = _Spacing()


def normalize(text: str) -> str:
    """Fold case and width, and replace punctuation and white space by single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().translate(_SPACING).split())


@dataclass(frozen=True)
class RawPrompt:
    """Messages as they were read or written."""

    messages: tuple[Message, ...]
    source: str
    license: str | None = None
    tools: str | None = None
    """JSON list of the tools the teacher may call, as OpenAI spells them."""
    known: str | None = None
    """The known answer, JSON of a `potstill.task.answers.Answer`; None where there is none."""

    @property
    def prompt_id(self) -> str:
        """Hash of the messages and tools."""
        content: Any = [message.to_chat() for message in self.messages]
        if self.tools is not None:
            content = {"messages": content, "tools": json.loads(self.tools)}
        return sha256_bytes(json.dumps(content, sort_keys=True).encode())[:ID_DIGITS]

    @property
    def key(self) -> str:
        """A key that is equal for prompts that differ only in case, spacing or punctuation."""
        words = [normalize(message.content) for message in self.messages]
        if not any(words):
            return self.prompt_id
        turns = zip(self.messages, words, strict=True)
        lines = [f"{message.role} {text}" for message, text in turns]
        return "\n".join([*lines, self.tools or ""])


@dataclass(frozen=True)
class DroppedPrompt:
    """A prompt that is not used, with the filter and its reason."""

    prompt: RawPrompt
    filter: str
    reason: str


def first_question(messages: Iterable[Message]) -> str:
    """Return a conversation's first question; a later one would not make sense on its own."""
    return next((one.content for one in messages if one.role == "user"), "")
