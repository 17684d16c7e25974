"""Grammars that bind an answer only once it has begun what they describe, such as a call.

In: the tokens of an answer. Out: the grammar, when the answer shows its marker.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, replace

from potstill.thinking import ThinkFormat
from serve.engine.grammar import GrammarSource, check_grammar
from serve.errors import InvalidRequestError


@dataclass(frozen=True)
class Trigger:
    """When a grammar begins to bind an answer."""

    source: GrammarSource
    marker: re.Pattern[str]
    """Matches the text before what the grammar binds."""
    marker_token: tuple[int, str] | None = None
    """A control token that stands for a text, which is not part of the answer otherwise."""
    think_format: ThinkFormat | None = None
    """How thinking is written, in which nothing is bound; None where there is none."""
    is_opened: bool = False
    """Whether the answer begins inside the thinking."""


def usable(trigger: Trigger) -> Trigger:
    """Return a trigger whose grammar can be read: else only the names of functions are bound.

    Raises:
        InvalidRequestError: A function is strict, and its schema cannot be enforced.
    """
    try:
        check_grammar(trigger.source)
    except InvalidRequestError:
        if trigger.source.is_exact:
            raise
        return replace(trigger, source=trigger.source.loosened())
    return trigger


class Watch:
    """The text of one answer so far, until its marker is found."""

    def __init__(self, trigger: Trigger) -> None:
        self._trigger = trigger
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text = ""

    def push(self, token_id: int, piece: bytes) -> GrammarSource | None:
        """Add a token; return the grammar once it binds what follows, with what has begun of it."""
        trigger = self._trigger
        if trigger.marker_token and trigger.marker_token[0] == token_id:
            self._text += trigger.marker_token[1]
        self._text += self._decoder.decode(piece)
        answer = self._after_thinking()
        found = None if answer is None else trigger.marker.search(answer)
        if answer is None or found is None:
            return None
        return replace(trigger.source, begun=answer[found.end() :])

    def _after_thinking(self) -> str | None:
        """Return the text after the thinking; None while that goes on."""
        tags = self._trigger.think_format
        if tags is None or not (
            self._trigger.is_opened or self._text.lstrip().startswith(tags.opening.strip())
        ):
            return self._text
        _, closing, answer = self._text.rpartition(tags.closing)
        return answer if closing else None
