"""What every teacher can do, wherever it runs: take requests, give samples as they finish.

In: token ids and sampling parameters. Out: token ids with the teacher's distributions.
Knows nothing of prompts, files or runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from potstill.distributions import TokenDistributions
from potstill.files import sha256_bytes
from potstill.schema import FinishReason, Message, SamplingParams


@dataclass(frozen=True)
class SampleRequest:
    """One completion to draw."""

    request_id: str
    prompt_token_ids: Sequence[int]
    sampling: SamplingParams
    messages: tuple[Message, ...] | None = None
    """The same prompt as messages, for servers that take no token ids; None where it is not made of
    whole messages."""
    tools: str | None = None
    """JSON list of the tools that go with the messages."""


@dataclass(frozen=True)
class ScoreRequest:
    """Text of somebody else's to be predicted token by token."""

    request_id: str
    token_ids: Sequence[int]
    start: int
    """First position whose distribution is wanted, at least 1: nothing predicts the first token."""


@dataclass(frozen=True)
class Sample:
    """One completion drawn, or one text scored."""

    request_id: str
    token_ids: tuple[int, ...]
    """T tokens, the end-of-turn token included where it was reached."""
    signal: TokenDistributions | None
    """The distributions that predicted the T tokens; None when none were asked for."""
    finish_reason: FinishReason


@dataclass(frozen=True)
class Failure:
    """A request that was given up."""

    request_id: str
    reason: str
    """One line, without text of the prompt."""


Requests = Callable[[int], Sequence[SampleRequest]]
"""Asked for up to so many further requests whenever there is room. It may return none now and some
later, after a result was taken; where nothing is in flight and it returns none, all is done."""

ScoreRequests = Callable[[int], Sequence[ScoreRequest]]


class SamplingTeacher(Protocol):
    """A teacher at work."""

    tokenizer: Any
    """A transformers tokenizer with a chat template."""
    max_num_seqs: int
    """How many requests it works on at once."""

    @property
    def end_token_ids(self) -> frozenset[int]:
        """Token ids that end a completion."""

    def sample(
        self, next_requests: Requests, *, top_logprobs: int | None
    ) -> Iterator[Sample | Failure]:
        """Draw completions; yield each as soon as it is finished.

        Args:
            next_requests: Where requests come from.
            top_logprobs: Raw log-probabilities wanted at each position; None wants none.

        Raises:
            TeacherError: The teacher fails as a whole.
        """
        ...

    def score(
        self, next_requests: ScoreRequests, *, top_logprobs: int
    ) -> Iterator[Sample | Failure]:
        """Return the distributions that predict the tokens of given texts.

        Raises:
            TeacherError: The teacher fails as a whole, or cannot score.
        """
        ...

    def facts(self) -> dict[str, Any]:
        """Return what a manifest says of it, the same however and wherever it runs.

        `logprobs_mode` is `raw_logprobs` where the log-probabilities are the model's own, before
        temperature and top-p.
        """
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


def derive_seed(seed: int, name: str) -> int:
    """Return a seed of 31 bits for one request, from the stage's seed and the request's name."""
    return int(sha256_bytes(f"{seed} {name}".encode())[:8], 16) >> 1
