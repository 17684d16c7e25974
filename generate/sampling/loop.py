"""The loop that lets the teacher answer all prompts and writes each part when it is whole.

In: a loaded teacher, prompts part by part. Out: parts on disk. Memory holds the conversations that
are under way, however many there are to come. Knows nothing of what a conversation says next.
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
"""Times a request is tried before its conversation is given up."""


class Job(Protocol):
    """A conversation in the making, sampled or scored."""

    @property
    def name(self) -> str:
        """Unique in a run."""

    @property
    def request(self) -> Any:  # noqa: ANN401  (a SampleRequest or ScoreRequest)
        """What to ask the teacher next; None when it is not the teacher's turn."""

    @property
    def user_messages(self) -> tuple[Message, ...] | None:
        """What another model is to answer as the user; None when it is not the user's turn."""

    def take(self, sample: Sample) -> None:
        """Add what the teacher gave."""

    def take_user_text(self, text: str | None) -> None:
        """Add another model's turn as the user; None ends the conversation."""

    def conversation(self) -> Conversation:
        """Return what was said."""
        ...


Begin = Callable[[], Job | FailedConversation]
"""Begins a conversation, or says why it cannot be begun."""
Part = tuple[int, Sequence[Begin]]
"""A part's number and its conversations."""
Ask = Callable[[Callable[[int], Sequence[Any]]], Iterator[Sample | Failure]]


@dataclass
class _OpenPart:
    index: int
    size: int
    ended: dict[int, Conversation | FailedConversation] = field(default_factory=dict)
    """By the conversation's place in the part: they end in any order."""


@dataclass
class _Open:
    """A job under way."""

    job: Job
    part: _OpenPart
    place: int
    num_attempts: int = 0


class ConversationLoop:
    """Keeps a teacher busy.

    Args:
        directory: Where parts go.
        vocab_size: The teacher's, for the width of token ids.
        choose: Which of a prompt's conversations are kept.
        user: Another model that plays the user; None where none does.
    """

    def __init__(
        self, directory: Path, vocab_size: int, choose: Choose, user: SimulatedUser | None = None
    ) -> None:
        self._directory, self._vocab_size, self._choose = directory, vocab_size, choose
        self._user = user
        self._waiting: deque[tuple[Begin, _OpenPart, int]] = deque()
        self._ready: deque[_Open] = deque()
        self._asked: dict[str, _Open] = {}
        self._talking: dict[str, _Open] = {}
        self._num_finished = 0

    def run(
        self, ask: Ask, parts: Iterable[Part], *, total: int, num_done: int, at_once: int
    ) -> None:
        """Make all parts.

        Args:
            ask: The teacher's `sample` or `score`, with its options bound.
            parts: What to make; taken one by one.
            total: Conversations of the whole stage, for the progress.
            num_done: Conversations made before.
            at_once: Conversations under way side by side; no more than that wait for the user when
                a further one is begun.

        Raises:
            TeacherError: The teacher fails as a whole, or drops a request.
            ArtifactError: A part cannot be written.
        """
        self._parts, self._at_once = iter(parts), at_once
        started, num_tokens, counted = time.monotonic(), 0, 0
        with track("the teacher answers", total, "conversations", at_once) as progress:
            progress.resume_from(num_done)
            for result in ask(self._next_requests):
                self._take(result)
                if isinstance(result, Sample):
                    num_tokens += len(result.token_ids)
                rate = num_tokens / (time.monotonic() - started)
                progress.advance(self._num_finished - counted, note=f"{rate:.0f} tokens/s")
                counted = self._num_finished
        if left := [*self._asked.values(), *self._ready, *self._talking.values()]:
            raise TeacherError(
                "the teacher ended before all conversations did",
                where=left[0].job.name,
                found=f"{len(left)} under way",
            )

    def _next_requests(self, room: int) -> list[Any]:
        """Return up to `room` requests: conversations under way first, then new ones."""
        requests: list[Any] = []
        self._take_user_turns(wait=False)
        while len(requests) < room:
            if self._ready:
                one = self._ready.popleft()
                one.num_attempts += 1
                self._asked[one.job.request.request_id] = one
                requests.append(one.job.request)
            elif len(self._talking) >= self._at_once or not self._open_next():
                if not self._talking or requests or self._asked:
                    break
                self._take_user_turns(wait=True)
        return requests

    def _open_next(self) -> bool:
        """Begin one more conversation; return whether there was one."""
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
        job = begin()
        if isinstance(job, FailedConversation):
            self._end(open_part, place, job)
        else:
            self._go_on(_Open(job, open_part, place))
        return True

    def _take(self, result: Sample | Failure) -> None:
        one = self._asked.pop(result.request_id)
        if isinstance(result, Sample):
            one.num_attempts = 0
            one.job.take(result)
            self._go_on(one)
        elif one.num_attempts < MAX_ATTEMPTS:
            self._ready.append(one)
        else:
            self._end(one.part, one.place, FailedConversation(one.job.name, result.reason))

    def _go_on(self, one: _Open) -> None:
        if one.job.request is not None:
            self._ready.append(one)
        elif one.job.user_messages is not None and self._user is not None:
            self._talking[one.job.name] = one
            self._user.ask(one.job.name, one.job.user_messages)
        else:
            self._end(one.part, one.place, one.job.conversation())

    def _take_user_turns(self, *, wait: bool) -> None:
        if self._user is None or not self._talking:
            return
        for name, text in self._user.answers(wait=wait):
            one = self._talking.pop(name)
            one.job.take_user_text(text)
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
