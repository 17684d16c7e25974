"""The values that pass between stages: frozen, validated, plain.

In: Python scalars, strings and lists. Out: pydantic models; no numpy, torch or Arrow types.
Knows nothing of files or of how the values were made.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Role = Literal["system", "user", "assistant"]
Split = Literal["train", "validation", "test"]
FinishReason = Literal["stop", "length"]


class Value(BaseModel):
    """Base of every value: frozen, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(Value):
    """One chat message."""

    role: Role
    content: str


class Prompt(Value):
    """What a conversation starts from: messages that end with the user's turn.

    `prompt_id` is a hash of the messages, so equal prompts have equal ids on every machine.
    """

    prompt_id: str
    split: Split
    messages: tuple[Message, ...] = Field(min_length=1)
    source: str
    """Where the prompt came from: a file's name, or "magpie"."""
    licence: str | None = None
    """SPDX identifier of the prompt's licence; None when its file does not say."""

    @model_validator(mode="after")
    def _ends_with_user(self) -> Self:
        if self.messages[-1].role != "user":
            raise ValueError(
                f"last message must be the user's, found role {self.messages[-1].role!r}"
            )
        return self


class SamplingParams(Value):
    """How the teacher's completion was drawn. Names and ranges are vLLM's."""

    temperature: float = Field(ge=0.0, le=2.0)
    top_p: float = Field(gt=0.0, le=1.0)
    max_tokens: int = Field(ge=1)
    seed: int


class TokenLogprobs(Value):
    """The teacher's raw next-token log-probabilities along a completion of T tokens, in nats.

    Row t belongs to `completion_token_ids[t]`: it is the distribution that predicted that token.
    """

    sampled_logprobs: tuple[float, ...]
    """[T] log-probability of the token that was sampled."""
    top_token_ids: tuple[tuple[int, ...], ...]
    """[T][K] ids of the K most probable tokens, most probable first."""
    top_logprobs: tuple[tuple[float, ...], ...]
    """[T][K] their log-probabilities."""

    @model_validator(mode="after")
    def _aligned(self) -> Self:
        lengths = {len(self.sampled_logprobs), len(self.top_token_ids), len(self.top_logprobs)}
        if len(lengths) != 1:
            raise ValueError(f"rows must be of equal number, found {sorted(lengths)}")
        for ids, logprobs in zip(self.top_token_ids, self.top_logprobs, strict=True):
            if len(ids) != len(logprobs):
                raise ValueError(f"{len(ids)} ids but {len(logprobs)} log-probabilities in a row")
        return self


class Conversation(Value):
    """A prompt, the teacher's completion, and the signal for token-level distillation."""

    prompt: Prompt
    completion: str
    """The completion as text, end-of-turn token left out."""
    prompt_token_ids: tuple[int, ...]
    """What the teacher saw, chat template applied."""
    completion_token_ids: tuple[int, ...] = Field(min_length=1)
    """What the teacher sampled, end-of-turn token included when it was reached."""
    logprobs: TokenLogprobs
    finish_reason: FinishReason
    seed: int
    """Seed of this completion's sampling."""

    @model_validator(mode="after")
    def _one_row_per_token(self) -> Self:
        num_rows = len(self.logprobs.sampled_logprobs)
        if num_rows != len(self.completion_token_ids):
            raise ValueError(
                f"{len(self.completion_token_ids)} completion tokens but {num_rows} log-prob rows"
            )
        return self
