"""The engine's side of the process that reads grammars.

In: grammars and the tokens a sampler would take. Out: verdicts, as they come; nothing here waits
longer than the caller allows.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from potstill.errors import BackendUnavailableError, PotstillError
from potstill.workers import (
    Worker,
    WorkerError,
    WorkerTimeoutError,
    environment_without_secrets,
)
from serve.engine.grammar_process import (
    HEADER,
    MAX_MEMORY_BYTES,
    MAX_MESSAGE_SECONDS,
    SERVICE,
    TOKEN_IDS,
    Message,
    Reply,
)
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
    """A grammar in use, and the tokens it has taken so far."""

    number: int
    source: Source
    token_ids: list[int] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    """Forced tokens that the text has by now and the process has not taken yet."""


@dataclass(frozen=True)
class Verdict:
    """The reply to a proposed token."""

    allowed_V: npt.NDArray[np.bool_] | None = None
    """[V] the tokens that are allowed; None when the proposed one was taken."""
    forced: Sequence[int] = ()
    """The tokens that must follow the one that was taken, as far as that is known."""
    error: PotstillError | None = None
    """Why the grammar cannot be used any more."""


class GrammarProcess:
    """Grammars over one vocabulary, in a process that is restarted when one crashes it.

    Args:
        model_path: The GGUF file with the vocabulary; without one grammars can only be opened.
        vocab_size: Number of tokens in it.
    """

    def __init__(self, model_path: Path | None, vocab_size: int = 0) -> None:
        self._vocab_size = vocab_size
        self._worker = Worker(
            SERVICE,
            model_path and str(model_path),
            growth_bytes=MAX_MEMORY_BYTES,
            cpu_seconds=MAX_MESSAGE_SECONDS,
            environment=environment_without_secrets(),
        )
        self._numbers = itertools.count()
        self._proposals: dict[Grammar, int | None] = {}
        """The open grammars, each with the token proposed to it."""
        self._expected: deque[tuple[Message, Grammar]] = deque()
        """What the next replies are to."""
        self._waiting_since = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether replies are still to come."""
        return bool(self._expected)

    @property
    def is_running(self) -> bool:
        """Whether the process is started, and `fileno` is readable once `collect` has something."""
        return self._worker.pid is not None

    def fileno(self) -> int:
        """Return the descriptor that replies come from."""
        return self._worker.fileno()

    def check(self, source: Source) -> PotstillError | None:
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
        self._send(Message.OPEN, grammar, source.message())
        return grammar

    def propose(self, grammar: Grammar, token_id: int) -> None:
        """Ask whether a token may come next; `collect` returns the verdict."""
        self._proposals[grammar] = token_id
        self._advance(grammar, [*grammar.skipped, token_id])

    def skip(self, grammar: Grammar, token_id: int) -> None:
        """Count a forced token as part of the text."""
        grammar.skipped.append(token_id)

    def release(self, grammar: Grammar) -> None:
        """End a grammar; `collect` returns nothing more about it."""
        if grammar in self._proposals:
            del self._proposals[grammar]
            if self.is_running:
                self._send(Message.CLOSE, grammar)

    def close(self) -> None:
        """End the process."""
        self._worker.close()
        self._expected.clear()

    def collect(self, timeout_seconds: float) -> list[tuple[Grammar, Verdict]]:
        """Return the verdicts that have arrived; wait for the first one."""
        verdicts: list[tuple[Grammar, Verdict]] = []
        deadline = time.monotonic() + timeout_seconds
        while self._expected:
            wait_seconds = 0.0 if verdicts else max(0.0, deadline - time.monotonic())
            try:
                has_reply = self._poll(wait_seconds)
            except PotstillError:
                verdicts += self._give_up()
                continue
            if has_reply:
                verdicts += self._receive()
            elif self._has_waited_too_long():
                verdicts += self._restart("takes too much time")
            else:
                break
        return verdicts

    def _poll(self, timeout_seconds: float) -> bool:
        if not self.is_running:
            raise PotstillError("the process could not be started")
        was_ready = self._worker.is_ready
        has_reply = self._worker.poll(timeout_seconds)
        if self._worker.is_ready and not was_ready:
            self._waiting_since = time.monotonic()
        return has_reply

    def _advance(self, grammar: Grammar, token_ids: Sequence[int]) -> None:
        self._send(Message.ADVANCE, grammar, np.array(token_ids, TOKEN_IDS).tobytes())

    def _send(self, kind: Message, grammar: Grammar, content: bytes = b"") -> None:
        if kind != Message.CLOSE:
            if not self._expected:
                self._waiting_since = time.monotonic()
            self._expected.append((kind, grammar))
        # `collect` reports a process that cannot be started, such as for lack of file descriptors.
        with suppress(OSError):
            self._worker.send(HEADER.pack(kind, grammar.number) + content)

    def _receive(self) -> list[tuple[Grammar, Verdict]]:
        try:
            reply = self._worker.receive()
        except WorkerTimeoutError:
            return self._restart("takes too much time")
        except WorkerError:
            return self._restart("cannot be read, or takes too much memory")
        except PotstillError as error:
            return self._refused(error)
        kind, grammar = self._next_expected()
        if grammar not in self._proposals or kind != Message.ADVANCE:
            return []
        token_id = self._proposals[grammar]
        if token_id is None or any(pending is grammar for _, pending in self._expected):
            return []
        self._proposals[grammar] = None
        grammar.token_ids += grammar.skipped
        grammar.skipped.clear()
        if reply[0] == Reply.TAKEN:
            grammar.token_ids.append(token_id)
            forced = np.frombuffer(reply, TOKEN_IDS, offset=1).tolist()
            return [(grammar, Verdict(forced=forced))]
        bits = np.frombuffer(reply, np.uint8, offset=1)
        allowed_V = np.unpackbits(bits, count=self._vocab_size, bitorder="little")
        return [(grammar, Verdict(allowed_V.astype(np.bool_)))]

    def _refused(self, error: PotstillError) -> list[tuple[Grammar, Verdict]]:
        _, grammar = self._next_expected()
        if grammar not in self._proposals:
            return []
        del self._proposals[grammar]
        return [(grammar, _broken(grammar, error.what, error.where))]

    def _next_expected(self) -> tuple[Message, Grammar]:
        self._waiting_since = time.monotonic()
        return self._expected.popleft()

    def _has_waited_too_long(self) -> bool:
        limit_seconds = ANSWER_SECONDS if self._worker.is_ready else START_SECONDS
        return time.monotonic() - self._waiting_since > limit_seconds

    def _give_up(self) -> list[tuple[Grammar, Verdict]]:
        """End all grammars: the process cannot be started now."""
        fallen = [*self._proposals]
        self._proposals.clear()
        self.close()
        error = BackendUnavailableError("the process that reads grammars cannot be started")
        return [(grammar, Verdict(error=error)) for grammar in fallen]

    def _restart(self, reason: str) -> list[tuple[Grammar, Verdict]]:
        """Drop the grammar whose reply was next, and restore the state of the others."""
        fallen = self._expected[0][1]
        self.close()
        verdicts = [(fallen, _broken(fallen, reason))] if fallen in self._proposals else []
        self._proposals.pop(fallen, None)
        for grammar, token_id in self._proposals.items():
            self._send(Message.OPEN, grammar, grammar.source.message())
            for taken in grammar.token_ids:
                self._advance(grammar, [taken])
            if token_id is not None:
                self._advance(grammar, [*grammar.skipped, token_id])
        return verdicts


def _broken(grammar: Grammar, found: str, place: object | None = None) -> Verdict:
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
            hint="potstill's docs/reference/grammars.md lists the keywords that can",
        )
    return Verdict(error=error)
