"""Values stored for an answer, and values read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from serve.wire.chat import ChatCompletion, ChatMessage

OutcomeName = Literal["whole", "failed", "cancelled"]


@dataclass(frozen=True)
class Place:
    """The place of an answer in an experiment."""

    experiment: str
    variant: str
    user: str
    """A hash: of the user's name, or, where a request has none, that of its conversation."""
    shares: Mapping[str, float] | None = None
    """Shares of all variants if the user was assigned; None in shadows, and while the teacher
    answers all requests."""
    shadow_of: str | None = None
    """Id of the client's answer that this one shadows."""


@dataclass(frozen=True)
class Said:
    """The text of an answer and its token counts; empty by default."""

    answer: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


NOTHING = Said()


@dataclass(frozen=True)
class AnswerRecord:
    """One requested answer."""

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
    owner: str = ""
    """Whose request it is; not stored."""


def said_in(completion: ChatCompletion) -> Said:
    """Return the first choice of an answer; tool calls as text."""
    if not completion["choices"]:
        return NOTHING
    choice = completion["choices"][0]
    calls = choice["message"].get("tool_calls") or []
    texts = [f"{one['function']['name']}({one['function']['arguments']})" for one in calls]
    # Upstream servers may leave out the usage.
    usage: Mapping[str, Any] = completion.get("usage") or {}
    return Said(
        answer="\n".join(filter(None, [choice["message"].get("content"), *texts])),
        finish_reason=choice["finish_reason"],
        prompt_tokens=usage.get("prompt_tokens") or 0,
        completion_tokens=usage.get("completion_tokens") or 0,
    )


@dataclass(frozen=True)
class StoredAnswer:
    """A stored complete answer."""

    id: str
    model: str
    conversation: str
    prompt: str


@dataclass(frozen=True)
class StoredPair:
    """Two answers to the same messages, the client's and its shadow; one may have failed."""

    id: str
    """Id of the client's answer."""
    conversation: str
    user: str
    """One independent observation: the user, or the conversation where none was named."""
    messages: str
    """JSON."""
    answers: Mapping[str, str]
    """By variant; empty for a failed one."""
    finish_reasons: Mapping[str, str | None]
    """By variant."""
    failed: str | None
    """The variant that failed to answer, if any."""
