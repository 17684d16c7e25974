"""An active request: its tokens, sampler, text and pending output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from potstill.errors import PotstillError
from serve.engine.grammar import GrammarSource
from serve.engine.grammar_client import Grammar, Verdict
from serve.engine.request import Output, Request
from serve.engine.sampler import SampledLogprob, Sampler, sampled_logprob
from serve.engine.slots import Slot
from serve.engine.text import TextStream
from serve.engine.trigger import Watch
from serve.errors import InvalidRequestError


@dataclass(frozen=True)
class Proposal:
    """A token that waits for the verdict of its grammar."""

    token_id: int
    logits_V: npt.NDArray[np.float32]


@dataclass(eq=False)
class ActiveSequence:
    """A request that has been admitted."""

    request: Request
    token_ids: list[int]
    """Prompt and completion so far; the slot holds a prefix of it."""
    max_new_tokens: int
    sampler: Sampler
    text: TextStream
    grammar: Grammar | None = None
    proposal: Proposal | None = None
    slot: Slot | None = None
    """None until its first token is scheduled."""
    draft: list[int] = field(default_factory=list)
    """Drafted tokens, to be verified in the next step."""
    borders: list[int] = field(default_factory=list)
    """Numbers of the prompt's tokens after which its slot's state is kept, those to come."""
    num_cached_tokens: int = 0
    num_new_tokens: int = 0
    finish_reason: Literal["stop", "length"] | None = None
    stop: str | None = None
    """The stop string that was met."""
    error: PotstillError | None = None
    _watch: Watch | None = field(init=False)
    """Finds where the request's trigger binds; None once it does, or without one."""
    _progress: list[int] = field(default_factory=list)
    _prompt_logprobs: list[SampledLogprob | None] = field(default_factory=lambda: [None])
    _new_token_ids: list[int] = field(default_factory=list)
    _new_text: str = ""
    _new_logprobs: list[SampledLogprob] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._watch = Watch(self.request.trigger) if self.request.trigger else None

    @property
    def num_computed(self) -> int:
        """Number of tokens whose keys and values are in the slot."""
        return len(self.slot.token_ids) if self.slot else 0

    @property
    def num_pending(self) -> int:
        """Number of tokens to compute before the next one can be sampled."""
        return len(self.token_ids) - self.num_computed

    @property
    def is_prefilling(self) -> bool:
        """Whether the prompt is still being read."""
        return self.num_new_tokens == 0 and self.proposal is None

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will be computed."""
        return self.finish_reason is not None or self.error is not None

    def note_progress(self) -> None:
        """Record how much of the prompt has been read."""
        if self.request.reports_progress:
            self._progress.append(self.num_computed)

    def read_prompt(self, start: int, logits_TV: npt.NDArray[np.float32]) -> None:
        """Record the log-probabilities of the prompt tokens after position `start`, [T, V]."""
        num_top = self.request.num_prompt_logprobs or 0
        for position, logits_V in enumerate(logits_TV, start + 1):
            if position < len(self.request.prompt_token_ids):
                token_id = self.token_ids[position]
                self._prompt_logprobs.append(sampled_logprob(logits_V, token_id, num_top))

    @property
    def may_skip(self) -> bool:
        """Whether tokens that its grammar forces are taken without logits, unsampled."""
        needs_logits = self.request.num_top_logprobs is not None or self.request.ignore_eos
        return not self.is_finished and not needs_logits

    def take(
        self, token_id: int, piece: bytes | None, logits_V: npt.NDArray[np.float32] | None
    ) -> GrammarSource | None:
        """Append a token; return the grammar that binds what follows, if the token begins it.

        Args:
            token_id: The sampled token.
            piece: Its bytes; None if it ends the answer.
            logits_V: [V] the raw logits it was sampled from; None if it had to come.
        """
        self.sampler.accept(token_id)
        self.num_new_tokens += 1
        self._new_token_ids.append(token_id)
        num_top = self.request.num_top_logprobs
        logprob = None if num_top is None else self.sampler.drawn
        if num_top is not None and logits_V is not None and not self.request.after_sampling:
            logprob = sampled_logprob(logits_V, token_id, num_top)
        if piece is None:
            self.finish("stop", logprob)
            return None
        self.token_ids.append(token_id)
        released = self.text.push(piece, logprob)
        self._new_text += released.text
        self._new_logprobs += released.logprobs
        if released.stop is not None:
            self.stop = released.stop
            self.finish("stop")
        elif self.num_new_tokens == self.max_new_tokens:
            self.finish("length")
        source = self._watch.push(token_id, piece) if self._watch else None
        if source is not None:
            self._watch = None
        return None if self.is_finished else source

    def propose_another(self, verdict: Verdict, end_tokens: Sequence[int]) -> int | None:
        """Choose among the tokens that the grammar allows, if it refused the proposed one.

        Returns:
            The token to propose next; None if the completion ends here, or fails.
        """
        if verdict.error is not None or self.proposal is None or verdict.allowed_V is None:
            self.error = verdict.error
            return None
        allowed_V, logits_V, ends = verdict.allowed_V, self.proposal.logits_V, list(end_tokens)
        may_end = bool(allowed_V[ends].any())
        if self.request.ignore_eos:
            allowed_V[ends] = False
        if not allowed_V.any():
            self.proposal = None
            self.finish("stop")
            if not may_end:
                self.error = InvalidRequestError(
                    "the grammar requires text that the model has no tokens for", where="grammar"
                )
            return None
        try:
            token_id = self.sampler.choose(logits_V, allowed_V)
        except PotstillError as error:
            self.error = error
            return None
        self.proposal = Proposal(token_id, logits_V)
        return token_id

    def finish(self, reason: Literal["stop", "length"], end: SampledLogprob | None = None) -> None:
        """End the completion; `end` has the log-probabilities of the sampled end token, if any."""
        rest = self.text.finish()
        self._new_text += rest.text
        self._new_logprobs += [*rest.logprobs, *([end] if end else [])]
        self.finish_reason = reason

    def pop_output(self) -> Output | None:
        """Return what is new since the last call; None if there is nothing yet."""
        prompt_logprobs = None
        asks_for_prompt = self.request.num_prompt_logprobs is not None
        if asks_for_prompt and (self.num_new_tokens or self.finish_reason):
            if self._prompt_logprobs:
                prompt_logprobs = tuple(self._prompt_logprobs)
            self._prompt_logprobs = []
        new = (self._new_text, self._new_logprobs, self._progress, prompt_logprobs)
        if not (self.is_finished or any(new)):
            return None
        output = Output(
            text=self._new_text,
            token_ids=tuple(self._new_token_ids),
            prompt_progress=tuple(self._progress),
            prompt_logprobs=prompt_logprobs,
            logprobs=tuple(self._new_logprobs),
            finish_reason=self.finish_reason,
            stop=self.stop,
            error=self.error,
            num_new_tokens=self.num_new_tokens if self.is_finished else 0,
            num_cached_tokens=self.num_cached_tokens,
        )
        self._new_token_ids, self._new_text, self._new_logprobs = [], "", []
        self._progress = []
        return output
