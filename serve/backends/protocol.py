"""The protocols of backends: what routes, experiments and cascades can ask of a served model.

Every backend answers chats; other capabilities are further protocols that a backend may fulfill.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

from serve.keys import Reservation
from serve.wire.chat import ChatCompletion, ChatCompletionChunk, ChatRequest
from serve.wire.completions import Completion, CompletionRequest
from serve.wire.embeddings import EmbeddingList, EmbeddingRequest
from serve.wire.models import ModelCard

VARIANT_HEADER = "x-potstill-variant"
"""Header of a reply with the name of the experiment's variant that answered."""
ANSWER_HEADER = "x-potstill-answer-id"
"""Header with the id that feedback refers to; also the `id` of a chat completion."""

Answer_co = TypeVar("Answer_co", covariant=True)
Chunk_co = TypeVar("Chunk_co", covariant=True)


def _free_of_charge(_num_tokens: int) -> Reservation:
    """Count nothing."""
    return Reservation()


@dataclass(frozen=True)
class Caller:
    """The sender of a request: decides a sticky variant, and pays from a key's limits."""

    key_name: str | None = None
    """Name of the API key that was given; None where no key is needed."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """The request's headers, names in lower case, without the key."""
    reserve: Callable[[int], Reservation] = _free_of_charge
    """Takes the most tokens that an answer may use, prompt included, from the key's limit."""
    num_bytes: int = 0
    """Length of the request's body."""

    @property
    def owner(self) -> str:
        """Whose the request is: the key's name, "" where none is needed."""
        return self.key_name or ""


class Reply(Protocol[Answer_co, Chunk_co]):
    """An answer being generated: call `complete` or `chunks`, not both."""

    async def complete(self) -> Answer_co:
        """Wait for the whole answer.

        Raises:
            BackendError: The backend failed.
        """
        ...

    def chunks(self) -> AsyncIterator[Chunk_co]:
        """Yield the answer as it is generated; the last chunk has the usage, asked for or not.

        Raises:
            BackendError: The backend failed.
        """
        ...

    def cancel(self) -> None:
        """Stop what still works for this answer; does nothing when it is complete."""
        ...


ChatReply = Reply[ChatCompletion, ChatCompletionChunk]
CompletionReply = Reply[Completion, Completion]


@runtime_checkable
class ReplyWithHeaders(Protocol):
    """A reply that adds headers to the HTTP response."""

    headers: Mapping[str, str]


class ChatBackend(Protocol):
    """Answers the requests for one model name."""

    @property
    def card(self) -> ModelCard:
        """The model as OpenAI lists it."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether requests are accepted."""
        ...

    async def start(self) -> None:
        """Start working in the running event loop; called once per model name."""
        ...

    async def stop(self) -> None:
        """Stop; unfinished answers fail. Called once per model name."""
        ...

    async def chat(self, request: ChatRequest, caller: Caller) -> ChatReply:
        """Accept a request.

        Raises:
            PotstillError: It is refused: a bad value, a full queue, an unavailable backend.
        """
        ...


@runtime_checkable
class HidingBackend(Protocol):
    """A backend under a name that does not show which model answers."""

    hidden: ChatBackend
    """The model, for records that clients do not see."""


@runtime_checkable
class CompletionBackend(Protocol):
    """A backend that completes text."""

    async def complete_text(self, request: CompletionRequest, caller: Caller) -> CompletionReply:
        """Accept a request; raises as `ChatBackend.chat` does."""
        ...


@runtime_checkable
class EmbeddingBackend(Protocol):
    """A backend that computes embeddings."""

    async def embed(self, request: EmbeddingRequest, caller: Caller) -> EmbeddingList:
        """Answer a request; raises as `ChatBackend.chat` does."""
        ...


@dataclass(frozen=True)
class Exchange:
    """A chat request with its complete answer."""

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
    """Called with each completed chat, such as a log; exceptions it raises are logged."""

    async def __call__(self, exchange: Exchange) -> None:
        """Handle one exchange, after its answer was sent."""
        ...


class Watch(Protocol):
    """One chat that is followed."""

    def piece(self) -> None:
        """Note that a piece of a stream has come."""
        ...

    def end(
        self, completion: ChatCompletion | None, headers: Mapping[str, str], error: str | None
    ) -> None:
        """Note the end; called once.

        Args:
            completion: The complete answer; None if there is none.
            headers: Those that the reply adds to the response.
            error: What kind of failure ended it; None if nothing did.
        """
        ...


class Watcher(Protocol):
    """Follows chats, such as for traces."""

    def watch(self, request: ChatRequest, caller: Caller, backend: ChatBackend) -> Watch:
        """Begin to follow a chat that is about to be asked."""
        ...
