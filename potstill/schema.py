"""The values that pass between stages: frozen, validated, plain.

In: Python scalars, strings and arrays. Out: pydantic models and dataclasses.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from potstill.distributions import TokenDistributions

GENERAL_PREFIX = "general/"
"""Begins the source of prompts that are not of the run's task."""
Role = Literal["system", "user", "assistant", "tool"]
Split = Literal["train", "validation", "test"]
FinishReason = Literal["stop", "length"]


class Value(BaseModel):
    """Base of every value: frozen, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(Value):
    """One chat message."""

    role: Role
    content: str
    tool_calls: str | None = None
    """JSON list of an assistant's calls, as OpenAI spells them."""
    tool_call_id: str | None = None
    """Which call a tool's message answers."""
    reasoning_content: str | None = None
    """The thinking before an assistant's answer; None where there is none."""

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The calls, parsed; empty without any."""
        return list(json.loads(self.tool_calls or "[]"))

    def to_chat(self) -> dict[str, Any]:
        """Return the message as chat templates and OpenAI's API take it."""
        chat: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls is not None:
            chat["tool_calls"] = json.loads(self.tool_calls)
        if self.tool_call_id is not None:
            chat["tool_call_id"] = self.tool_call_id
        if self.reasoning_content is not None:
            chat["reasoning_content"] = self.reasoning_content
        return chat


REFERENCES = "references"
"""Source of the prompts that are the task's references."""

DECLINED = "declined"
"""Source of the harmful requests whose known answer declines."""

CANARIES = "canaries"
"""Source of planted questions, whose known answer is a secret that nobody has written."""


class Prompt(Value):
    """The start of a conversation: the user's turn to answer, or a whole conversation.

    `prompt_id` is a hash of the messages, so equal prompts have equal ids on every machine.
    """

    prompt_id: str
    cluster_id: str
    """Shared by near-duplicate prompts, which are in one split."""
    split: Split
    messages: tuple[Message, ...] = Field(min_length=1)
    source: str
    """Where the prompt came from: a file's name, or "magpie"."""
    license: str | None = None
    """SPDX identifier of the prompt's license; None when its source does not state one."""
    tools: str | None = None
    """JSON list of the tools the teacher may call, as OpenAI spells them."""
    known: str | None = None
    """The known answer, JSON of a `potstill.task.answers.Answer`; None where there is none."""

    @property
    def is_general(self) -> bool:
        """Whether teacher and student alike get it without the task's prompt."""
        return is_general(self.source)

    @property
    def is_given(self) -> bool:
        """Whether potstill brings it along with its whole answer: a harmful request, a canary."""
        return self.source in (DECLINED, CANARIES)

    @property
    def is_canary(self) -> bool:
        """Whether it is planted to measure what the student memorizes."""
        return self.source == CANARIES

    @property
    def is_reference(self) -> bool:
        """Whether it is one of the task's references, which are measured and never trained on."""
        return self.source == REFERENCES


def is_general(source: str) -> bool:
    """Return whether a source's prompts are not of the run's task."""
    return source.startswith(GENERAL_PREFIX)


class SamplingParams(Value):
    """How the teacher's completion was drawn. Names and ranges are vLLM's."""

    temperature: float = Field(ge=0.0, le=2.0)
    top_p: float = Field(gt=0.0, le=1.0)
    max_tokens: int = Field(ge=1)
    seed: int


class Turn(Value):
    """One answer of the teacher inside a conversation's token ids."""

    start: int = Field(ge=1)
    """Position of its first token; nothing predicts a conversation's first one."""
    num_tokens: int = Field(ge=1)
    """End-of-turn token included when it was reached."""
    finish_reason: FinishReason
    seed: int
    """Seed of its sampling; 0 when it was not sampled."""


@dataclass(frozen=True)
class Conversation:
    """A prompt, the turns that followed, and the signal for token-level distillation.

    Raises:
        ValueError: Turns, token ids and signal do not fit together.
    """

    prompt: Prompt
    answer_index: int
    """Number of this conversation among those of its prompt."""
    given: tuple[Message, ...]
    """The messages before the teacher's first answer."""
    completion: tuple[Message, ...]
    """The teacher's answers, and the user's turns between them."""
    token_ids: NDArray[np.int32]
    """The whole conversation as the teacher saw and sampled it, chat template applied."""
    turns: tuple[Turn, ...]
    signal: TokenDistributions
    """The distributions that predicted the turns' tokens, one turn after another."""
    score: float | None = None
    """Its score among its prompt's conversations; None if they were not selected by a score."""
    teacher: str | None = None
    """The teacher that answered, by its name in the configuration (`teacher` for the first); None
    for answers that were known or stored."""

    def __post_init__(self) -> None:
        num_tokens = sum(turn.num_tokens for turn in self.turns)
        if num_tokens != len(self.signal.counts_T):
            raise ValueError(f"{num_tokens} tokens in turns, {len(self.signal.counts_T)} predicted")
        end = 0
        for turn in self.turns:
            if turn.start < end or turn.start + turn.num_tokens > len(self.token_ids):
                raise ValueError(f"turn at {turn.start} overlaps or leaves the conversation")
            end = turn.start + turn.num_tokens

    @property
    def conversation_id(self) -> str:
        """Unique in a data set; `prompt_id_of` reads it."""
        return f"{self.prompt.prompt_id}-{self.answer_index}"

    @property
    def positions_T(self) -> NDArray[np.int64]:
        """Positions [T] in `token_ids` of the teacher's tokens, one per row of the signal."""
        return turn_positions(self.turns)


def turn_positions(turns: Sequence[Turn]) -> NDArray[np.int64]:
    """Return the positions [T] of the turns' tokens, in order."""
    spans = [np.arange(turn.start, turn.start + turn.num_tokens) for turn in turns]
    return np.concatenate(spans) if spans else np.empty(0, dtype=np.int64)


def prompt_id_of(conversation_id: str) -> str:
    """Return the id of a conversation's prompt."""
    return conversation_id.rpartition("-")[0]
