"""What backends can do: the faces that routes, experiments and cascades talk to.

Every backend answers chats; what else it can do it says by fulfilling more protocols.
In: a checked request. Out: an answer in the making. Knows nothing of engines, HTTP or experiments.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from serve.api.wire.chat import ChatCompletion, ChatCompletionChunk, ChatRequest
from serve.api.wire.completions import Completion, CompletionRequest
from serve.api.wire.embeddings import EmbeddingList, EmbeddingRequest
from serve.api.wire.models import ModelCard


def _free_of_charge(_num_tokens: int) -> None:
    """Count nothing."""


@dataclass(frozen=True)
class Caller:
    """Who asks: what decides a sticky variant, and what limits count."""

    key_name: str | None = None
    """Name of the API key that was given; None where the door is open."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """The request's headers, names in lower case, without the key."""
    charge: Callable[[int], None] = _free_of_charge
    """To be told the tokens of each answer, prompt included: what a key's limit counts."""


class ChatReply(Protocol):
    """One answer in the making: `complete` or `chunks`, not both."""

    async def complete(self) -> ChatCompletion:
        """Wait for the whole answer.

        Raises:
            BackendError: The backend failed.
        """
        ...

    def chunks(self) -> AsyncIterator[ChatCompletionChunk]:
        """Yield the answer as it comes, as OpenAI's chunks, the one with usage included if asked.

        Raises:
            BackendError: The backend failed.
        """
        ...

    def cancel(self) -> None:
        """Free all that still works for this answer; harmless when nothing does."""
        ...


@runtime_checkable
class HeadedReply(Protocol):
    """A reply that tells its client something beside the answer."""

    headers: Mapping[str, str]
    """Headers of the HTTP response."""


def headers_of(reply: ChatReply) -> Mapping[str, str]:
    """Return what a reply tells its client beside the answer."""
    return reply.headers if isinstance(reply, HeadedReply) else {}


class CompletionReply(Protocol):
    """The same for text without a chat template."""

    async def complete(self) -> Completion:
        """Wait for the whole answer."""
        ...

    def chunks(self) -> AsyncIterator[Completion]:
        """Yield the answer as it comes."""
        ...

    def cancel(self) -> None:
        """Free all that still works for this answer; harmless when nothing does."""
        ...


class ChatBackend(Protocol):
    """Who answers a model's name."""

    @property
    def card(self) -> ModelCard:
        """The model as OpenAI lists it."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether requests are taken."""
        ...

    async def start(self) -> None:
        """Begin to work for the running event loop; called once per name that it serves."""
        ...

    async def stop(self) -> None:
        """Stop; what is unfinished then fails. Called once per name that it serves."""
        ...

    async def chat(self, request: ChatRequest, caller: Caller) -> ChatReply:
        """Take a request.

        Raises:
            PotstillError: It is refused: a bad value, a full queue, a backend that is away.
        """
        ...


@runtime_checkable
class CompletionBackend(Protocol):
    """A backend that completes text."""

    async def complete_text(self, request: CompletionRequest, caller: Caller) -> CompletionReply:
        """Take a request; raises as `ChatBackend.chat` does."""
        ...


@runtime_checkable
class EmbeddingBackend(Protocol):
    """A backend that gives texts vectors."""

    async def embed(self, request: EmbeddingRequest, caller: Caller) -> EmbeddingList:
        """Answer a request; raises as `ChatBackend.chat` does."""
        ...


@dataclass(frozen=True)
class Exchange:
    """A chat that was answered to its end."""

    body: Mapping[str, Any]
    """The request as it was sent."""
    request: ChatRequest
    completion: ChatCompletion
    """The whole answer, streamed or not."""
    caller: Caller
    backend: ChatBackend
    seconds: float
    """From the request to its last token."""


class Observer(Protocol):
    """What is told of each answered chat, such as a record; what it raises is logged."""

    async def __call__(self, exchange: Exchange) -> None:
        """Take note of one exchange, after its answer was sent."""
        ...
