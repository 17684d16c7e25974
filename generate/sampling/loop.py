"""The loop that samples all conversations and writes each part when it is complete.

In: a loaded teacher, and prompts part by part. Out: parts on disk. Memory holds only the
conversations in progress.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from generate.sampling.best_of_n import Choose
from generate.sampling.parts import FailedConversation, write_part
from generate.sampling.simulated_user import SimulatedUser
from generate.teachers.protocol import Failure, Sample
from potstill.errors import TeacherError
from potstill.progress import track
from potstill.schema import Conversation, Message

MAX_ATTEMPTS = 3
"""Attempts at a request before its conversation counts as failed."""


class ConversationBuilder(Protocol):
    """A conversation in progress, sampled or scored."""

    @property
    def name(self) -> str:
        """Unique in a run."""

    @property
    def request(self) -> Any:  # noqa: ANN401  (a SampleRequest or ScoreRequest)
        """The next request to the teacher; None when it is not the teacher's turn."""

    @property
    def user_messages(self) -> tuple[Message, ...] | None:
        """The messages that another model answers as the user; None when it is not its turn."""

    def take(self, sample: Sample) -> None:
        """Add the teacher's result."""

    def take_user_text(self, text: str | None) -> None:
        """Add a user turn from another model; None ends the conversation."""

    def conversation(self) -> Conversation:
        """Return the finished conversation."""
        ...


class Complete:
    """A builder whose conversation is complete from the start."""

    request: None = None
    user_messages: tuple[Message, ...] | None = None

    def take(self, sample: Sample) -> None:
        """Never called: nothing is sampled."""

    def take_user_text(self, text: str | None) -> None:
        """Never called: the conversation has ended."""


Begin = Callable[[], ConversationBuilder | FailedConversation]
"""Returns a new conversation, or the reason why there is none."""
Part = tuple[int, Sequence[Begin]]
"""A part's number and its conversations."""
Ask = Callable[[Callable[[int], Sequence[Any]]], Iterator[Sample | Failure]]


@dataclass
class _OpenPart:
    index: int
    size: int
    ended: dict[int, Conversation | FailedConversation] = field(default_factory=dict)
    """By the conversation's index in the part; they end in any order."""


@dataclass
class _Unfinished:
    """A conversation in progress and its place."""

    builder: ConversationBuilder
    part: _OpenPart
    place: int
    num_attempts: int = 0


class ConversationLoop:
    """Samples conversations, as many at a time as the teacher takes.

    Args:
        directory: Where parts go.
        vocab_size: The teacher's, for the width of token ids.
        choose: Selects the conversations of a prompt that are kept.
        user: Another model that plays the user; None where there is none.
    """

    def __init__(
        self, directory: Path, vocab_size: int, choose: Choose, user: SimulatedUser | None = None
    ) -> None:
        self._directory, self._vocab_size, self._choose = directory, vocab_size, choose
        self._user = user
        self._waiting: deque[tuple[Begin, _OpenPart, int]] = deque()
        self._ready: deque[_Unfinished] = deque()
        self._asked: dict[str, _Unfinished] = {}
        self._awaiting_user: dict[str, _Unfinished] = {}
        self._num_finished = 0

    def run(
        self, ask: Ask, parts: Iterable[Part], *, total: int, num_done: int, at_once: int
    ) -> None:
        """Sample and write all parts.

        Args:
            ask: The teacher's `sample` or `score`, with its options bound.
            parts: The parts to sample; read one at a time.
            total: Number of conversations of the whole stage, for the progress bar.
            num_done: Number of conversations sampled before.
            at_once: No new conversation begins while this many wait for the user's model.

        Raises:
            TeacherError: The teacher fails as a whole, or drops a request.
            ArtifactError: A part cannot be written.
        """
        self._parts, self._at_once = iter(parts), at_once
        started, num_tokens, counted = time.monotonic(), 0, 0
        with track("sampling", total, "conversations", at_once) as progress:
            progress.resume_from(num_done)
            for result in ask(self._next_requests):
                if not counted:  # What ended without an answer says nothing about the time left.
                    counted = self._num_finished
                    progress.resume_from(num_done + counted)
                self._take(result)
                if isinstance(result, Sample):
                    num_tokens += len(result.token_ids)
                rate = num_tokens / (time.monotonic() - started)
                progress.advance(self._num_finished - counted, note=f"{rate:.0f} tokens/s")
                counted = self._num_finished
        if left := [*self._asked.values(), *self._ready, *self._awaiting_user.values()]:
            raise TeacherError(
                "the teacher stopped before all conversations ended",
                where=left[0].builder.name,
                found=f"{len(left)} unfinished conversations",
            )

    def _next_requests(self, room: int) -> list[Any]:
        """Return up to `room` requests: first for conversations in progress, then for new ones."""
        requests: list[Any] = []
        self._take_user_turns(wait=False)
        while len(requests) < room:
            if self._ready:
                one = self._ready.popleft()
                one.num_attempts += 1
                self._asked[one.builder.request.request_id] = one
                requests.append(one.builder.request)
            elif len(self._awaiting_user) >= self._at_once or not self._open_next():
                if not self._awaiting_user or requests or self._asked:
                    break
                self._take_user_turns(wait=True)
        return requests

    def _open_next(self) -> bool:
        """Begin one more conversation; return False when none is left."""
        while not self._waiting:
            part = next(self._parts, None)
            if part is None:
                return False
            index, beginnings = part
            open_part = _OpenPart(index, len(beginnings))
            for place, begin in enumerate(beginnings):
                self._waiting.append((begin, open_part, place))
            if not beginnings:
                self._write(open_part)
        begin, open_part, place = self._waiting.popleft()
        builder = begin()
        if isinstance(builder, FailedConversation):
            self._end(open_part, place, builder)
        else:
            self._go_on(_Unfinished(builder, open_part, place))
        return True

    def _take(self, result: Sample | Failure) -> None:
        one = self._asked.pop(result.request_id)
        if isinstance(result, Sample):
            one.num_attempts = 0
            one.builder.take(result)
            self._go_on(one)
        elif one.num_attempts < MAX_ATTEMPTS:
            self._ready.append(one)
        else:
            self._end(one.part, one.place, FailedConversation(one.builder.name, result.reason))

    def _go_on(self, one: _Unfinished) -> None:
        if one.builder.request is not None:
            self._ready.append(one)
        elif one.builder.user_messages is not None and self._user is not None:
            self._awaiting_user[one.builder.name] = one
            self._user.ask(one.builder.name, one.builder.user_messages)
        else:
            self._end(one.part, one.place, one.builder.conversation())

    def _take_user_turns(self, *, wait: bool) -> None:
        if self._user is None or not self._awaiting_user:
            return
        for name, text in self._user.answers(wait=wait):
            one = self._awaiting_user.pop(name)
            one.builder.take_user_text(text)
            self._go_on(one)

    def _end(self, part: _OpenPart, place: int, ended: Conversation | FailedConversation) -> None:
        part.ended[place] = ended
        self._num_finished += 1
        if len(part.ended) == part.size:
            self._write(part)

    def _write(self, part: _OpenPart) -> None:
        ended = [part.ended[place] for place in range(part.size)]
        kept = self._choose([one for one in ended if isinstance(one, Conversation)])
        failures = [one for one in ended if isinstance(one, FailedConversation)]
        write_part(self._directory, part.index, kept, failures, self._vocab_size)
