"""Common parts of all local replies: tokens in OpenAI's form, token counts, timings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field

from serve.engine.model import GgufModel
from serve.engine.request import Output
from serve.engine.sampler import SampledLogprob
from serve.engine.thread import Generation
from serve.keys import Reservation
from serve.metrics import Stopwatch
from serve.wire.shared import CompletionUsage, PromptProgress, Timings, TokenLogprob, TopLogprob

LEAST_LOGPROB = -9999.0
"""OpenAI's stand-in for the log-probability of an impossible token."""


@dataclass
class TimedGeneration:
    """A generation with its token counts and times so far."""

    generation: Generation
    stopwatch: Stopwatch
    reservation: Reservation
    num_prompt_tokens: int
    num_new_tokens: int = field(default=0, init=False)
    num_cached_tokens: int = field(default=0, init=False)

    async def __aiter__(self) -> AsyncIterator[tuple[int, Output]]:
        """Yield each output with its choice's number, until all choices are finished.

        Raises:
            BackendError: The engine failed.
        """
        try:
            async for index, output in self.generation:
                self.stopwatch.tick(index, len(output.token_ids))
                self.num_new_tokens += len(output.token_ids)
                self.num_cached_tokens = max(self.num_cached_tokens, output.num_cached_tokens)
                yield index, output
            self.stopwatch.stop()
        finally:
            self._settle()

    def cancel(self) -> None:
        """Stop what still works."""
        self.generation.cancel()
        self._settle()

    def _settle(self) -> None:
        self.reservation.settle(self.num_prompt_tokens + self.num_new_tokens)

    @property
    def usage(self) -> CompletionUsage:
        """Token counts of all choices together."""
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": self.num_new_tokens,
            "total_tokens": self.num_prompt_tokens + self.num_new_tokens,
            "prompt_tokens_details": {"cached_tokens": self.num_cached_tokens},
        }

    def prompt_progress(self, num_read: int) -> PromptProgress:
        """Return the progress after `num_read` prompt tokens."""
        return {
            "total": self.num_prompt_tokens,
            "cache": self.num_cached_tokens,
            "processed": num_read,
            "time_ms": 1000 * self.stopwatch.prompt_seconds,
        }

    @property
    def timings(self) -> Timings:
        """The speed so far."""
        num_computed = self.num_prompt_tokens - self.num_cached_tokens
        prompt, generation = self.stopwatch.prompt_seconds, self.stopwatch.generation_seconds
        return {
            "cache_n": self.num_cached_tokens,
            "prompt_n": num_computed,
            "prompt_ms": 1000 * prompt,
            "prompt_per_second": num_computed / prompt if prompt else 0.0,
            "predicted_n": self.num_new_tokens,
            "predicted_ms": 1000 * generation,
            "predicted_per_second": self.num_new_tokens / generation if generation else 0.0,
        }


def text_of(model: GgufModel, token_ids: Iterable[int]) -> str:
    """Return the text of tokens; control tokens have none."""
    return b"".join(map(model.piece, token_ids)).decode(errors="replace")


def token_logprobs(model: GgufModel, entries: Sequence[SampledLogprob]) -> list[TokenLogprob]:
    """Return sampled tokens in OpenAI's form."""
    return [
        {
            **token_logprob(model, entry.token_id, entry.logprob),
            "top_logprobs": [token_logprob(model, *rival) for rival in entry.top],
        }
        for entry in entries
    ]


def token_logprob(model: GgufModel, token_id: int, logprob: float) -> TopLogprob:
    """Return a token in OpenAI's form."""
    piece = model.piece(token_id)
    return {
        "id": token_id,
        "token": piece.decode(errors="replace"),
        "logprob": finite(logprob),
        "bytes": list(piece),
    }


def finite(logprob: float) -> float:
    """Return a log-probability that JSON can represent."""
    return max(logprob, LEAST_LOGPROB)
