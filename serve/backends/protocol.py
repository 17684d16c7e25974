"""What every backend can do: the one face that routes, experiments and cascades talk to.

In: a checked request. Out: an answer in the making. Knows nothing of engines, HTTP or experiments.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from serve.api.wire import ChatCompletion, ChatCompletionChunk, ChatRequest, ModelCard


@dataclass(frozen=True)
class Caller:
    """Who asks: what decides a sticky variant, and what limits count."""

    key_name: str | None = None
    """Name of the API key that was given; None where the door is open."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """The request's headers, names in lower case."""


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
        """Begin to work for the running event loop."""
        ...

    async def stop(self) -> None:
        """Stop; what is unfinished then fails."""
        ...

    async def chat(self, request: ChatRequest, caller: Caller) -> ChatReply:
        """Take a request.

        Raises:
            PotstillError: It is refused: a bad value, a full queue, a backend that is away.
        """
        ...
