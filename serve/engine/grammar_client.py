"""The engine's side of the process that reads grammars.

In: grammars and the tokens a sampler would take. Out: verdicts, as they come; nothing here waits
longer than the caller allows.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from serve.engine import grammar_process
from serve.engine.grammar_process import HEADER, Message, Reply
from serve.errors import InvalidRequestError

START_SECONDS = 60.0
"""How long the process may take to load a vocabulary, on a busy machine."""

ANSWER_SECONDS = 10.0
"""How long a reply may take, on a busy machine; the process has limits of processor time."""


class Source(Protocol):
    """What a grammar is read from."""

    @property
    def place(self) -> str:
        """The request's parameter that is to blame for an error."""
        ...

    def message(self) -> bytes:
        """Return it as the process reads it."""
        ...


@dataclass(eq=False)
class Grammar:
    """A grammar at work, and what it has taken so far."""

    number: int
    source: Source
    token_ids: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Verdict:
    """The reply to a proposed token."""

    allowed_V: npt.NDArray[np.bool_] | None = None
    """[V] the tokens that are allowed; None when the proposed one was taken."""
    error: InvalidRequestError | None = None
    """Why the grammar cannot be used any more."""


class GrammarProcess:
    """Grammars over one vocabulary, in a process that is restarted when one brings it down.

    Args:
        model_path: The GGUF file with the vocabulary; without one grammars can only be opened.
        vocab_size: Number of tokens in it.
    """

    def __init__(self, model_path: Path | None, vocab_size: int = 0) -> None:
        self._model_path = model_path
        self._vocab_size = vocab_size
        self._numbers = itertools.count()
        self._proposals: dict[Grammar, int | None] = {}
        """The open grammars, each with the token proposed to it."""
        self._expected: deque[tuple[Message | None, Grammar | None]] = deque()
        """What the next replies are to; None stands for the process's start."""
        self._waiting_since = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection

    @property
    def is_busy(self) -> bool:
        """Whether replies are still to come."""
        return bool(self._expected)

    def check(self, source: Source) -> InvalidRequestError | None:
        """Open a grammar and return what is wrong with it."""
        grammar = self.open(source)
        error = None
        while self.is_busy:
            for _, verdict in self.collect(0.1):
                error = verdict.error
        self.release(grammar)
        return error

    def open(self, source: Source) -> Grammar:
        """Begin with a grammar; `collect` reports what is wrong with it."""
        grammar = Grammar(next(self._numbers), source)
        self._proposals[grammar] = None
        if self._process is None:
            self._start()
        self._send(Message.OPEN, grammar, source=source.message())
        return grammar

    def propose(self, grammar: Grammar, token_id: int) -> None:
        """Ask whether a token may come next; `collect` returns the verdict."""
        self._proposals[grammar] = token_id
        self._send(Message.ADVANCE, grammar, token_id)

    def release(self, grammar: Grammar) -> None:
        """End a grammar; `collect` returns nothing more about it."""
        if grammar in self._proposals:
            del self._proposals[grammar]
            self._send(Message.CLOSE, grammar)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._connection.close()
            self._process.kill()
            self._process.wait()
            self._process = None
        self._expected.clear()

    def collect(self, timeout_seconds: float) -> list[tuple[Grammar, Verdict]]:
        """Return the verdicts that have come; wait a while for the first one."""
        verdicts: list[tuple[Grammar, Verdict]] = []
        deadline = time.monotonic() + timeout_seconds
        while self._expected:
            wait_seconds = 0.0 if verdicts else max(0.0, deadline - time.monotonic())
            try:
                if self._connection.poll(wait_seconds):
                    verdicts += self._receive(self._connection.recv_bytes())
                elif self._has_waited_too_long():
                    verdicts += self._restart()
                else:
                    break
            except (EOFError, OSError):
                verdicts += self._restart()
        return verdicts

    def _start(self) -> None:
        self._connection, child = Pipe()
        command = [sys.executable, "-m", grammar_process.__name__, str(child.fileno())]
        if self._model_path is not None:
            command.append(str(self._model_path))
        self._process = subprocess.Popen(
            command, pass_fds=[child.fileno()], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        child.close()
        self._expect(None, None)

    def _expect(self, kind: Message | None, grammar: Grammar | None) -> None:
        if not self._expected:
            self._waiting_since = time.monotonic()
        self._expected.append((kind, grammar))

    def _send(
        self, kind: Message, grammar: Grammar, token_id: int = 0, source: bytes = b""
    ) -> None:
        if kind != Message.CLOSE:
            self._expect(kind, grammar)
        # A process that has ended is noticed where replies are read.
        with contextlib.suppress(OSError):
            header = HEADER.pack(kind, grammar.number, token_id)
            self._connection.send_bytes(header + source)

    def _receive(self, reply: bytes) -> list[tuple[Grammar, Verdict]]:
        kind, grammar = self._expected.popleft()
        self._waiting_since = time.monotonic()
        if grammar is None or grammar not in self._proposals:
            return []
        if reply[0] == Reply.BROKEN:
            del self._proposals[grammar]
            place, found = json.loads(reply[1:])
            return [(grammar, _broken(grammar, found, place))]
        if kind != Message.ADVANCE:
            return []
        token_id = self._proposals[grammar]
        if token_id is None or any(pending is grammar for _, pending in self._expected):
            return []
        self._proposals[grammar] = None
        if reply[0] == Reply.DONE:
            grammar.token_ids.append(token_id)
            return [(grammar, Verdict())]
        bits = np.frombuffer(reply, np.uint8, offset=1)
        allowed_V = np.unpackbits(bits, count=self._vocab_size, bitorder="little")
        return [(grammar, Verdict(allowed_V.astype(np.bool_)))]

    def _has_waited_too_long(self) -> bool:
        limit_seconds = START_SECONDS if self._expected[0][0] is None else ANSWER_SECONDS
        return time.monotonic() - self._waiting_since > limit_seconds

    def _restart(self) -> list[tuple[Grammar, Verdict]]:
        """Drop the grammar whose reply was next, and bring the others to where they were."""
        assert self._process is not None
        _, culprit = self._expected[0]
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.0 if self._has_waited_too_long() else 1.0)
        is_slow = self._process.returncode in (None, -signal.SIGPROF)
        self.close()
        reason = "takes too much time" if is_slow else "cannot be read, or takes too much memory"
        fallen = list(self._proposals) if culprit is None else [culprit]
        verdicts = [(g, _broken(g, reason)) for g in fallen if g in self._proposals]
        for grammar in fallen:
            self._proposals.pop(grammar, None)
        if self._proposals:
            self._start()
        for grammar, token_id in self._proposals.items():
            self._send(Message.OPEN, grammar, source=grammar.source.message())
            for taken in grammar.token_ids:
                self._send(Message.ADVANCE, grammar, taken)
            if token_id is not None:
                self._send(Message.ADVANCE, grammar, token_id)
        return verdicts


def _broken(grammar: Grammar, found: str, place: str | None = None) -> Verdict:
    place = place or grammar.source.place
    if place == "grammar":
        error = InvalidRequestError(
            f"the grammar {found}",
            where=place,
            expected="GBNF with a rule named root, without left recursion",
            hint="llama.cpp's grammars/README.md describes the language",
        )
    else:
        error = InvalidRequestError(
            "the JSON schema cannot be enforced",
            where=place,
            found=found,
            hint="potstill's docs/serving.md lists the keywords that can",
        )
    return Verdict(error=error)
