"""What every answer of an engine is made with: tokens as OpenAI shows them, counts, times.

In: the outputs of one request. Out: pieces of answers. Knows nothing of the shapes they go into.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from serve.backends.protocol import Caller
from serve.engine.model import GgufModel
from serve.engine.request import Output
from serve.engine.sampler import SampledLogprob
from serve.engine.thread import Generation
from serve.metrics import Stopwatch
from serve.wire.shared import CompletionUsage, PromptProgress, Timings, TokenLogprob, TopLogprob

LEAST_LOGPROB = -9999.0
"""Stands for a probability of 0; OpenAI's value."""


class TimedGeneration:
    """A generation, with what it has cost so far."""

    def __init__(
        self,
        generation: Generation,
        stopwatch: Stopwatch,
        caller: Caller,
        *,
        num_prompt_tokens: int,
        num_choices: int,
    ) -> None:
        self._generation = generation
        self._stopwatch = stopwatch
        self._caller = caller
        self._num_prompt_tokens = num_prompt_tokens
        self._num_new_tokens = [0] * num_choices
        self._num_cached_tokens = 0

    async def __aiter__(self) -> AsyncIterator[tuple[int, Output]]:
        """Yield each output with its choice's number, until all choices are finished.

        Raises:
            BackendError: The engine failed.
        """
        try:
            async for index, output in self._generation:
                self._stopwatch.tick(index, len(output.token_ids))
                self._num_new_tokens[index] += len(output.token_ids)
                self._num_cached_tokens = max(self._num_cached_tokens, output.num_cached_tokens)
                yield index, output
            self._stopwatch.stop()
        finally:
            self._caller.charge(self._num_prompt_tokens + sum(self._num_new_tokens))

    def cancel(self) -> None:
        """Free what still works."""
        self._generation.cancel()

    @property
    def usage(self) -> CompletionUsage:
        """Counts, of all choices together."""
        num_new = sum(self._num_new_tokens)
        return {
            "prompt_tokens": self._num_prompt_tokens,
            "completion_tokens": num_new,
            "total_tokens": self._num_prompt_tokens + num_new,
            "prompt_tokens_details": {"cached_tokens": self._num_cached_tokens},
        }

    def prompt_progress(self, num_read: int) -> PromptProgress:
        """Tell that so much of the prompt was read."""
        return {
            "total": self._num_prompt_tokens,
            "cache": self._num_cached_tokens,
            "processed": num_read,
            "time_ms": 1000 * self._stopwatch.prompt_seconds,
        }

    @property
    def timings(self) -> Timings:
        """How fast the answer is."""
        num_new = sum(self._num_new_tokens)
        num_computed = self._num_prompt_tokens - self._num_cached_tokens
        prompt, generation = self._stopwatch.prompt_seconds, self._stopwatch.generation_seconds
        return {
            "cache_n": self._num_cached_tokens,
            "prompt_n": num_computed,
            "prompt_ms": 1000 * prompt,
            "prompt_per_second": num_computed / prompt if prompt else 0.0,
            "predicted_n": num_new,
            "predicted_ms": 1000 * generation,
            "predicted_per_second": num_new / generation if generation else 0.0,
        }


def token_logprobs(model: GgufModel, entries: Sequence[SampledLogprob]) -> list[TokenLogprob]:
    """Show sampled tokens as OpenAI does."""
    return [
        {
            **token_logprob(model, entry.token_id, entry.logprob),
            "top_logprobs": [token_logprob(model, *rival) for rival in entry.top],
        }
        for entry in entries
    ]


def token_logprob(model: GgufModel, token_id: int, logprob: float) -> TopLogprob:
    """Show a token as OpenAI does."""
    piece = model.piece(token_id)
    return {
        "id": token_id,
        "token": piece.decode(errors="replace"),
        "logprob": finite(logprob),
        "bytes": list(piece),
    }


def finite(logprob: float) -> float:
    """Return a log-probability that JSON can carry."""
    return max(logprob, LEAST_LOGPROB)
