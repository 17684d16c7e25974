"""The protocol of teachers: requests in, samples out as they finish.

In: token ids and sampling parameters. Out: token ids with the teacher's distributions.
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
    """A request for one completion."""

    request_id: str
    prompt_token_ids: Sequence[int]
    sampling: SamplingParams
    messages: tuple[Message, ...] | None = None
    """The same prompt as messages, for servers that do not accept token ids; None where it does not
    consist of complete messages."""
    tools: str | None = None
    """JSON list of the tools that go with the messages."""
    schema: str | None = None
    """JSON schema that the completion must fit. Servers with log-probabilities take none, because
    theirs may be those under the schema."""
    labels: tuple[str, ...] = ()
    """Or all completions that there are; empty: any. Servers are not asked for labels."""

    @property
    def is_bound(self) -> bool:
        """Whether a schema or labels leave no room for thinking."""
        return self.schema is not None or bool(self.labels)


@dataclass(frozen=True)
class ScoreRequest:
    """A stored text to be scored token by token."""

    request_id: str
    token_ids: Sequence[int]
    start: int
    """First position with a distribution, at least 1: nothing predicts the first token."""


@dataclass(frozen=True)
class Sample:
    """One sampled completion, or one scored text."""

    request_id: str
    token_ids: tuple[int, ...]
    """T tokens, including the end-of-turn token if it was reached."""
    signal: TokenDistributions | None
    """The distributions that predicted the T tokens; None if none were requested."""
    finish_reason: FinishReason
    message: Message | None = None
    """The completion of a teacher that gives text alone, whose tokens are derived from it; None:
    the tokens are what was sampled."""


@dataclass(frozen=True)
class Failure:
    """A request that failed."""

    request_id: str
    reason: str
    """One line, without any text of the prompt."""


Requests = Callable[[int], Sequence[SampleRequest]]
"""Returns up to the given number of further requests. It may return none now and some later, after
a result was taken; if it returns none while nothing is in flight, the work is done."""

ScoreRequests = Callable[[int], Sequence[ScoreRequest]]


class SamplingTeacher(Protocol):
    """A loaded teacher."""

    tokenizer: Any
    """A transformers tokenizer with a chat template."""
    max_num_seqs: int
    """Number of requests it processes at once."""

    @property
    def end_token_ids(self) -> frozenset[int]:
        """Token ids that end a completion."""

    def sample(
        self, next_requests: Requests, *, top_logprobs: int | None
    ) -> Iterator[Sample | Failure]:
        """Draw completions; yield each as soon as it is finished.

        Args:
            next_requests: The source of requests.
            top_logprobs: Number of raw log-probabilities per position; None for none.

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
        """Return the facts for the manifest, which do not depend on where the teacher runs.

        `logprobs_mode` is `raw_logprobs` where the log-probabilities are the model's own, before
        temperature and top-p, and `none` where text is all that the teacher gives.
        """
        ...

    def close(self) -> None:
        """Free the teacher's memory and connections."""
        ...


def derive_seed(seed: int, name: str) -> int:
    """Return a seed of 31 bits for one request, from the stage's seed and the request's name."""
    return int(sha256_bytes(f"{seed} {name}".encode())[:8], 16) >> 1
