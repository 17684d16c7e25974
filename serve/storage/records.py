"""The values that are stored of an answer, and those that are read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from serve.wire.chat import ChatCompletion, ChatMessage

OutcomeName = Literal["whole", "failed", "cancelled"]


@dataclass(frozen=True)
class Place:
    """Where in an experiment an answer belongs."""

    experiment: str
    variant: str
    user: str
    """A hash."""
    shares: Mapping[str, float] | None = None
    """Of all variants, where the user was dealt; None where nobody was: in a shadow, and while the
    teacher answers all."""
    shadow_of: str | None = None
    """Id of the answer beside which this one was made."""


@dataclass(frozen=True)
class Said:
    """What an answer says, and how much of it; nothing by default."""

    answer: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


NOTHING = Said()


@dataclass(frozen=True)
class AnswerRecord:
    """One answer that was asked for."""

    id: str
    model: str
    created: float
    """In seconds since 1970."""
    seconds: float
    """From the request to the last token."""
    outcome: OutcomeName
    messages: Sequence[ChatMessage]
    conversation: str
    """A hash that all turns of a conversation share."""
    prompt: str
    """A hash of all messages."""
    place: Place | None = None
    said: Said = NOTHING


def said_in(completion: ChatCompletion) -> Said:
    """Return what the first choice of an answer says; calls of tools as they would be sent."""
    if not completion["choices"]:
        return NOTHING
    choice = completion["choices"][0]
    calls = choice["message"].get("tool_calls") or []
    texts = [f"{one['function']['name']}({one['function']['arguments']})" for one in calls]
    # Another server may leave out what ours always tells.
    usage: Mapping[str, Any] = completion.get("usage") or {}
    return Said(
        answer="\n".join(filter(None, [choice["message"].get("content"), *texts])),
        finish_reason=choice["finish_reason"],
        prompt_tokens=usage.get("prompt_tokens") or 0,
        completion_tokens=usage.get("completion_tokens") or 0,
    )


@dataclass(frozen=True)
class StoredAnswer:
    """What is known of an answer that was given."""

    id: str
    model: str
    conversation: str
    prompt: str


@dataclass(frozen=True)
class StoredPair:
    """Two answers to the same messages, the client's and its shadow; one may have failed."""

    id: str
    """The client's answer's."""
    conversation: str
    messages: str
    """JSON."""
    answers: Mapping[str, str]
    """By variant; empty where it failed."""
    finish_reasons: Mapping[str, str | None]
    """By variant."""
    failed: str | None
    """The variant that failed to answer, if one did."""
