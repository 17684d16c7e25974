"""A parser of tool calls in a model's output, for streams and whole answers.

In: an answer's text, piece by piece. Out: text, and the start and arguments of calls as soon as
they are certain. What only looks like a call is returned as text.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from potstill.json_text import parse_json
from potstill.tools.formats import HERMES, LLAMA, ToolFormat

PYTHON_TAG = "<|python_tag|>"


@dataclass(frozen=True)
class PlainText:
    """Text outside calls."""

    text: str


@dataclass(frozen=True)
class CallBegins:
    """The start of a call of the function with this name."""

    name: str


@dataclass(frozen=True)
class CallArguments:
    """A piece of the JSON text of the current call's arguments."""

    text: str


Piece = PlainText | CallBegins | CallArguments


class ToolCallParser:
    """Splits an answer into text and calls. One parser per answer."""

    def __init__(self, tool_format: ToolFormat) -> None:
        self._format = tool_format
        self._buffer = ""
        self._call: _CallObject | None = None
        self._state = self._start if tool_format is LLAMA else self._text
        self._num_calls = 0
        self._skips_space = False
        """Whether white space before the next text is left out: it follows a call."""

    @property
    def num_calls(self) -> int:
        """Calls found so far."""
        return self._num_calls

    def push(self, text: str) -> list[Piece]:
        """Add text of the answer; return the pieces that are certain now."""
        self._buffer += text
        pieces: list[Piece] = []
        while self._state(pieces):
            pass
        return pieces

    def finish(self, *, is_cut: bool = False) -> list[Piece]:
        """Return the text that was held back, at the end of the answer.

        Args:
            is_cut: Whether the answer reached its limit of tokens: then what may have become a call
                is no text.
        """
        rest, self._buffer = self._buffer, ""
        if is_cut and self._may_become_call(rest):
            rest = ""
        elif self._call is not None:
            begun = self._call.has_begun
            rest = "" if begun else self._format.opening + self._call.text + rest
        elif self._num_calls and (not rest.strip() or self._state == self._after):
            rest = ""
        elif not self._num_calls and self._state == self._object:
            rest = self._format.opening + rest
        return [PlainText(rest)] if rest else []

    def _may_become_call(self, rest: str) -> bool:
        if self._format.opening:
            return self._state != self._after
        text = rest if self._call is None else self._call.text
        return self._format.marker.search(text) is not None

    # States: each consumes part of the buffer and returns whether to go on with the rest.

    def _text(self, pieces: list[Piece]) -> bool:
        """Pass text on up to an opening."""
        opening = self._format.opening
        if self._skips_space:
            self._buffer = self._buffer.lstrip()
        before, found, after = (
            self._buffer.partition(opening) if opening else (self._buffer, "", "")
        )
        if not found:
            before, after = _hold_back(self._buffer, opening)
        if before:
            pieces.append(PlainText(before))
            self._skips_space = False
        self._buffer = after
        if found:
            self._state = self._object
        return bool(found)

    def _start(self, _pieces: list[Piece]) -> bool:
        """Decide whether an answer without an opening is a call."""
        rest = self._buffer.lstrip()
        if not rest or PYTHON_TAG.startswith(rest):
            return False
        rest = rest.removeprefix(PYTHON_TAG).lstrip()
        if not rest:
            return False
        if rest[0] == "{":
            self._buffer, self._state = rest, self._object
        else:
            self._state = self._text
        return True

    def _object(self, pieces: list[Piece]) -> bool:
        """Consume the JSON object of a call."""
        if self._call is None:
            self._buffer = self._buffer.lstrip(" \n\t\r[")
            if not self._buffer:
                return False
            if self._buffer[0] != "{":
                self._state = self._text
                return True
            self._call = _CallObject(self._format.arguments_key)
        used = self._call.push(self._buffer)
        self._buffer = self._buffer[used:]
        pieces += self._call.released()
        if not self._call.is_whole:
            return False
        if self._call.has_begun:
            self._num_calls += 1
        else:
            pieces.append(PlainText(self._format.opening + self._call.text))
        self._call = None
        self._state = self._after
        return True

    def _after(self, _pieces: list[Piece]) -> bool:
        """Skip the text between a call and what follows."""
        self._skips_space = self._num_calls > 0
        self._buffer = self._buffer.lstrip()
        ending = HERMES.closing if self._format is HERMES else ""
        if not self._buffer or (ending.startswith(self._buffer) and self._buffer != ending):
            return False
        if ending:
            self._buffer = self._buffer.removeprefix(ending)
            self._state = self._text
        elif self._buffer[0] in ",;":
            self._buffer, self._state = self._buffer[1:], self._object
        else:
            self._buffer, self._state = self._buffer.removeprefix("]"), self._text
        return True


class _CallObject:
    """The JSON object of one call, as it arrives.

    Models usually write the name before the arguments: then the arguments are passed on as they
    arrive. Otherwise the object is parsed when it is complete.
    """

    def __init__(self, arguments_key: str) -> None:
        keys = f"(?:{arguments_key}|arguments|parameters)"
        self._head = re.compile(
            r'\{\s*"name"\s*:\s*"([^"\\\x00-\x1f]*)"\s*,\s*"' + keys + r'"\s*:\s*(?=\{)'
        )
        self.text = ""
        self._depth = 0
        self._in_string = self._escaped = False
        self._name: str | None = None
        self._sent = self._end = 0
        self._pieces: list[Piece] = []

    @property
    def is_whole(self) -> bool:
        return bool(self.text) and self._depth == 0

    @property
    def has_begun(self) -> bool:
        """Whether it is known to be a call."""
        return self._name is not None

    def push(self, text: str) -> int:
        """Add text up to the object's end; return the number of characters used."""
        former = len(self.text)
        for character in text:
            self.text += character
            self._track(character)
            if self.is_whole:
                break
        self._read()
        return len(self.text) - former

    def released(self) -> list[Piece]:
        """Return the pieces that are certain now."""
        pieces, self._pieces = self._pieces, []
        return pieces

    def _track(self, character: str) -> None:
        if self._in_string:
            if self._escaped:
                self._escaped = False
            elif character == "\\":
                self._escaped = True
            elif character == '"':
                self._in_string = False
        elif character == '"':
            self._in_string = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
            if self._depth == 1 and not self._end:
                self._read()
                self._end = len(self.text) if self._name is not None else 0

    def _read(self) -> None:
        if self._name is None and (match := self._head.match(self.text)):
            self._name = match[1]
            self._sent = match.end()
            self._pieces.append(CallBegins(self._name))
        if self._name is not None:
            end = self._end or len(self.text)
            if end > self._sent:
                self._pieces.append(CallArguments(self.text[self._sent : end]))
                self._sent = end
        elif self.is_whole:
            self._read_whole()

    def _read_whole(self) -> None:
        try:
            call = parse_json(self.text)
        except ValueError:
            return
        name = call.get("name") if isinstance(call, dict) else None
        arguments = call.get("arguments", call.get("parameters", {})) if name else None
        if isinstance(name, str) and isinstance(arguments, dict):
            self._name = name
            self._sent = self._end = len(self.text)
            self._pieces.append(CallBegins(name))
            self._pieces.append(CallArguments(json.dumps(arguments, ensure_ascii=False)))


def split_answer(tool_format: ToolFormat, *pieces: str) -> tuple[str, list[tuple[str, str]]]:
    """Return a whole answer's text outside calls, and each call's name and arguments (JSON text).

    Args:
        pieces: The answer, in one piece or in several.
    """
    parser = ToolCallParser(tool_format)
    plain = ""
    calls: list[tuple[str, str]] = []
    for found in [*(one for piece in pieces for one in parser.push(piece)), *parser.finish()]:
        match found:
            case PlainText(more):
                plain += more
            case CallBegins(name):
                calls.append((name, ""))
            case CallArguments(more):
                calls[-1] = (calls[-1][0], calls[-1][1] + more)
    return plain, calls


def _hold_back(text: str, opening: str) -> tuple[str, str]:
    """Split off an end of the text that may become an opening."""
    for length in range(min(len(opening) - 1, len(text)), 0, -1):
        if text.endswith(opening[:length]):
            return text[:-length], text[-length:]
    return text, ""
