"""An engine's input and output: requests, outputs, limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from potstill.errors import PotstillError
from serve.engine.grammar import GrammarSource
from serve.engine.sampler import Dry, SampledLogprob, SamplerParams
from serve.engine.trigger import Trigger


@dataclass(frozen=True, eq=False)
class Request:
    """One completion to generate. Requests are compared by identity."""

    prompt_token_ids: Sequence[int]
    sampler: SamplerParams = field(default_factory=SamplerParams)
    max_new_tokens: int | None = None
    """None means as many as the context has room for."""
    stop: tuple[str, ...] = ()
    """The completion ends before the first of these strings."""
    num_top_logprobs: int | None = None
    """Number of alternatives to report per token; None reports no log-probabilities."""
    after_sampling: bool = False
    """Whether to report the distribution that a token was drawn from, after bias, penalties and
    truncation, instead of the model's own."""
    num_prompt_logprobs: int | None = None
    """The same for the prompt's tokens, which are then all computed, without the prefix cache."""
    grammar: GrammarSource | None = None
    """What the completion's text follows; see `check_grammar`. The completion ends where the
    grammar ends."""
    trigger: Trigger | None = None
    """A grammar that binds what follows a marker, where there is no `grammar`."""
    ignore_eos: bool = False
    """Whether end tokens are never drawn."""
    reports_progress: bool = False
    """Whether outputs report how much of the prompt has been read."""

    dry: Dry | None = None
    """DRY for `sampler`, if it was made beside the engine."""

    owner: str = ""
    """Whose request it is: owners take turns, and share no memory of prompts."""

    num_public_tokens: int = 0
    """Number of the prompt's first tokens that any owner may know, and whose memory is shared."""


@dataclass(frozen=True)
class Output:
    """An addition to one request's completion."""

    text: str = ""
    token_ids: tuple[int, ...] = ()
    """Tokens sampled since the last output, end tokens included."""
    prompt_progress: tuple[int, ...] = ()
    """Numbers of prompt tokens that were read since the last output, batch by batch; the first one
    of a request counts the cached tokens."""
    prompt_logprobs: tuple[SampledLogprob | None, ...] | None = None
    """One entry per prompt token, the first of which has none; in one output, before any text."""
    logprobs: tuple[SampledLogprob, ...] = ()
    finish_reason: Literal["stop", "length"] | None = None
    stop: str | None = None
    """The stop string before which the completion ends, in the last output."""
    error: PotstillError | None = None
    num_new_tokens: int = 0
    """Tokens of the whole completion, end token included; set in the last output."""
    num_cached_tokens: int = 0
    """Prompt tokens taken from the prefix cache."""

    @property
    def is_last(self) -> bool:
        """Whether this is the request's last output."""
        return self.finish_reason is not None or self.error is not None


@dataclass(frozen=True)
class EngineLimits:
    """Limits of an engine; the meanings are those of `ServeConfig`."""

    context_tokens: int
    max_parallel: int
    max_batch_tokens: int
    max_queue: int
    has_owners: object = False
    """True where several owners send requests: then none of them may take all of the engine. It may
    change."""
    reproducible: bool = True
    kv_cache: str | None = None

    def share_of(self, room: int) -> int:
        """Return how much of some room one owner may have: all of it where there are no others."""
        return max(1, room // 2) if self.has_owners else room
