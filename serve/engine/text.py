"""From token bytes to text: whole characters only, without stop strings."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass

from serve.engine.sampler import SampledLogprob


@dataclass(frozen=True)
class Released:
    """Text that may be shown, with the log-probabilities of its tokens."""

    text: str
    logprobs: tuple[SampledLogprob, ...]
    stop: str | None = None
    """The stop string that was met; it is not part of the text."""


class TextStream:
    """The text of one completion; bytes that may become a stop string are held back."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stops = [text.encode() for text in stop]
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = b""
        self._num_released_bytes = 0
        self._logprobs: list[tuple[int, SampledLogprob]] = []

    def push(self, piece: bytes, logprob: SampledLogprob | None) -> Released:
        """Add the bytes of the next token."""
        if logprob is not None:
            self._logprobs.append((self._num_released_bytes + len(self._held), logprob))
        self._held += piece
        found = [(at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            at, stop = min(found)
            text, logprobs = self._release(at)
            self._held = b""
            self._logprobs.clear()
            return Released(text + self._decoder.decode(b"", final=True), logprobs, stop.decode())
        return Released(*self._release(len(self._held) - self._num_uncertain()))

    def finish(self) -> Released:
        """Release the held bytes: the completion has ended without a stop string."""
        text, ready = self._release(len(self._held))
        rest = tuple(logprob for _, logprob in self._logprobs)
        text += self._decoder.decode(b"", final=True)
        return Released(text, ready + rest)

    def _release(self, num_bytes: int) -> tuple[str, tuple[SampledLogprob, ...]]:
        text = self._decoder.decode(self._held[:num_bytes])
        self._held = self._held[num_bytes:]
        self._num_released_bytes += num_bytes
        ready = [logprob for at, logprob in self._logprobs if at < self._num_released_bytes]
        del self._logprobs[: len(ready)]
        return text, tuple(ready)

    def _num_uncertain(self) -> int:
        """Return the length of the longest suffix of the held bytes that starts a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
