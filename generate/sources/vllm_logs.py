"""Logs of vLLM's server, as rows with a request and its response.

With `--enable-log-requests --enable-log-outputs` and `VLLM_LOGGING_LEVEL=DEBUG` the server writes
the body of each request as JSON, and the text of each choice when it is done. Other lines are
skipped. It logs no errors, neither thinking nor text beside calls, and a choice of a request with
an `X-Request-Id` header under that id, which its body does not have: such requests have no answer.

Source: `RequestLogger` of vLLM 0.32 (entrypoints/serve/utils/request_logger.py), and the texts that
entrypoints/openai/chat_completion/serving.py gives it.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from generate.sources.formats.reader import function_call
from generate.sources.json_text import parse_json
from generate.sources.rows import RowError

SUFFIXES = {".log"}
MOST_OPEN_BYTES = 1 << 28
"""256 MiB of lines whose requests lack choices are kept; beyond that the first requests go without
them. Errors and streams that a client left are never finished."""
REQUEST = re.compile(r"Request (\S+) JSON body: (.*)")
QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
CHOICE = re.compile(
    rf"Generated response chatcmpl-(\S+?)(?: \(streaming complete\))?: output: ({QUOTED}), "
    r"finish_reason: \w+"
)
CALLS = re.compile(r"\[tool_calls: (.+)\]", re.DOTALL)
CALL = re.compile(r"(?:, )?([\w.-]+)\((?=\{)")
CUT = "a body that is not JSON: was it cut off by --max-log-len?"
NOTHING = (
    "no request of vLLM's, which logs them with --enable-log-requests and VLLM_LOGGING_LEVEL=DEBUG"
)


@dataclass
class _Open:
    """A request whose choices are awaited."""

    line: int
    body: dict[str, Any]
    size: int = 0
    """Characters of its lines."""
    texts: list[str] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        wanted = self.body.get("n")
        return len(self.texts) >= (wanted if isinstance(wanted, int) else 1)

    @property
    def row(self) -> object:
        """The request with its response; a RowError if it cannot be stored as text."""
        response = {
            "model": self.body.get("model"),
            "choices": [{"message": _message(text)} for text in self.texts],
        }
        row = {"request": self.body, "response": response if self.texts else None}
        try:
            return parse_json(json.dumps(row))
        except RowError as error:
            return error


class _Waiting:
    """The requests whose choices are awaited, the first one first."""

    def __init__(self) -> None:
        self._requests: dict[str, _Open] = {}
        self._size = 0

    def add(self, name: str, request: _Open, size: int) -> None:
        """Take a request; an earlier one of that name gets no more choices."""
        if name in self._requests:
            self._requests[f"{name} {request.line}"] = self._requests.pop(name)
        self._requests[name] = request
        self._grow(request, size)

    def answer(self, name: str, literal: str, size: int) -> None:
        """Take a choice, unless its request is not here."""
        request = self._requests.get(name)
        text = None if request is None else _unquoted(literal)
        if request is not None and text is not None:
            request.texts.append(text)
            self._grow(request, size)

    def finished(self, name: str) -> Iterator[_Open]:
        """Yield the request if it has its choices, and the first ones beyond the bound."""
        if name in self._requests and self._requests[name].is_complete:
            yield self._drop(name)
        while self._size > MOST_OPEN_BYTES:
            yield self._drop(next(iter(self._requests)))

    def rest(self) -> Iterator[_Open]:
        """Yield the others."""
        yield from self._requests.values()

    def _grow(self, request: _Open, size: int) -> None:
        request.size += size
        self._size += size

    def _drop(self, name: str) -> _Open:
        request = self._requests.pop(name)
        self._size -= request.size
        return request


def read_lines(lines: Iterable[str]) -> Iterator[tuple[int, object]]:
    """Yield the number of each request's line, from 1, with its row or a RowError."""
    waiting = _Waiting()
    is_vllm = False
    for number, line in enumerate(lines, start=1):
        if found := CHOICE.search(line):
            waiting.answer(found[1], found[2], len(line))
        elif found := REQUEST.search(line):
            is_vllm = True
            body = _body(found[2])
            if isinstance(body, RowError):
                yield number, body
            elif body is not None:
                waiting.add(found[1], _Open(number, body), len(line))
        if found:
            yield from ((one.line, one.row) for one in waiting.finished(found[1]))
    yield from ((one.line, one.row) for one in waiting.rest())
    if not is_vllm:
        yield 1, RowError(NOTHING)


def _body(text: str) -> dict[str, Any] | RowError | None:
    """Return a chat's body; None for other requests, such as embeddings."""
    try:
        body = parse_json(text)
    except RowError:
        return RowError(CUT)
    return body if isinstance(body, dict) and "messages" in body else None


def _unquoted(literal: str) -> str | None:
    """Return the text that Python writes so; None where it does not."""
    try:
        return str(ast.literal_eval(literal))
    except (ValueError, SyntaxError, MemoryError):
        return None


def _message(text: str) -> dict[str, Any]:
    """Return a choice's message, with its calls if the text is of calls alone."""
    found = CALLS.fullmatch(text)
    calls = [] if found is None else _calls(found[1])
    if not calls:
        return {"role": "assistant", "content": text}
    return {"role": "assistant", "content": None, "tool_calls": calls}


def _calls(text: str) -> list[dict[str, Any]]:
    """Return `name(arguments), …` as calls; none if the text is something else."""
    calls: list[dict[str, Any]] = []
    place = 0
    while call := CALL.match(text, place):
        try:
            _, end = json.JSONDecoder().raw_decode(text, call.end())
        except (ValueError, RecursionError):
            return []
        if text[end : end + 1] != ")":
            return []
        calls.append(function_call(f"call_{len(calls) + 1}", call[1], text[call.end() : end]))
        place = end + 1
    return calls if place == len(text) else []
