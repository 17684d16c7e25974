"""A fake teacher whose answers depend on the requests' seeds, for benchmarks without a model."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from generate.teachers.protocol import Requests, Sample, SampleRequest, ScoreRequests
from potstill.distributions import TokenDistributions


class FakeTeacher:
    """A `SamplingTeacher` whose answers depend on a request's seed, at a given pace.

    Its log-probabilities are real numbers of the usual size, so that what is stored of them is.
    """

    end_token_ids = frozenset({2})

    def __init__(
        self,
        tokenizer: object,
        num_tokens: int,
        *,
        max_num_seqs: int = 128,
        seconds_each: float = 0.0,
    ) -> None:
        self.tokenizer, self.max_num_seqs = tokenizer, max_num_seqs
        self._num_tokens, self._seconds_each = num_tokens, seconds_each

    def sample(self, next_requests: Requests, *, top_logprobs: int | None) -> Iterator[Sample]:
        """Draw completions, the shortest of those held first."""
        held: list[SampleRequest] = []
        while True:
            held += next_requests(self.max_num_seqs - len(held))
            if not held:
                return
            request = held.pop(request_length(held))
            time.sleep(self._seconds_each)
            yield self._answer(request, top_logprobs or 1)

    def score(self, next_requests: ScoreRequests, *, top_logprobs: int) -> Iterator[Sample]:
        """Nothing is scored here."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """Return the facts for a manifest."""
        return {"logprobs_mode": "raw_logprobs"}

    def close(self) -> None:
        """Do nothing."""

    def _answer(self, request: SampleRequest, k: int) -> Sample:
        random = np.random.default_rng(request.sampling.seed)
        num_tokens = int(random.integers(self._num_tokens // 2, self._num_tokens + 1))
        logits = np.sort(random.gumbel(size=(num_tokens, 2 * k)) * 3, axis=1)[:, ::-1]
        logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        ids = random.integers(300, 40_000, size=(num_tokens, k))
        signal = TokenDistributions.from_padded(ids, logprobs[:, :k], logprobs[:, 0])
        token_ids = (*map(int, ids[:-1, 0]), 2)
        return Sample(request.request_id, token_ids, signal, "stop")


def request_length(held: Sequence[SampleRequest]) -> int:
    """Return the place of the request with the shortest prompt."""
    return min(range(len(held)), key=lambda place: len(held[place].prompt_token_ids))
