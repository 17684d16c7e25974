"""A chat on its way through the server, by whichever API it came: watched, and reported when whole.

In: a chat and its backend. Out: the backend's reply; the watcher hears of its pieces and its end,
the observers of its complete answer.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from serve.api.state import Serving
from serve.backends.protocol import (
    Caller,
    ChatBackend,
    ChatReply,
    Exchange,
    HidingBackend,
    ReplyWithHeaders,
    Watch,
)
from serve.wire.chat import ChatCompletion, ChatCompletionChunk, ChatRequest
from serve.wire.chunks import ChunkAssembler
from serve.wire.translation import Translation


class ObservedChat:
    """One chat and its reply.

    Args:
        body: The request as it was sent; None makes one of the chat.
        translation: What made the chat of another API's request; errors name their place there.
    """

    def __init__(
        self,
        serving: Serving,
        backend: ChatBackend,
        request: ChatRequest,
        caller: Caller,
        *,
        body: Mapping[str, Any] | None = None,
        translation: Translation | None = None,
    ) -> None:
        self._serving, self._backend = serving, backend
        self._recorded = backend.hidden if isinstance(backend, HidingBackend) else backend
        self._request, self._caller = request, caller
        self._body = body
        self._translation = translation or Translation()
        self._started = time.perf_counter()
        self._completion: ChatCompletion | None = None
        self._watch: Watch | None = None

    async def ask(self) -> ChatReply:
        """Ask the backend; raises as `ChatBackend.chat` does."""
        if self._serving.watcher is not None:
            self._watch = self._serving.watcher.watch(self._request, self._caller, self._recorded)
        with self._failures(), self._translation.errors_in_place():
            self._reply = await self._backend.chat(self._request, self._caller)
        return self if self._watch or self._serving.observers else self._reply

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers that the reply adds to the response."""
        return self._reply.headers if isinstance(self._reply, ReplyWithHeaders) else {}

    async def complete(self) -> ChatCompletion:
        """Wait for the whole answer; raises as the reply does."""
        with self._failures():
            self._completion = await self._reply.complete()
        self._end()
        return self._completion

    async def chunks(self) -> AsyncIterator[ChatCompletionChunk]:
        """Yield the answer as it is generated; raises as the reply does."""
        assembler = ChunkAssembler()
        with self._failures():
            async for chunk in self._reply.chunks():
                assembler.add(chunk)
                if self._watch is not None:
                    self._watch.piece()
                yield chunk
        self._completion = assembler.completion
        self._end()

    def cancel(self) -> None:
        """Stop what still works for this answer."""
        self._reply.cancel()
        self._end("cancelled")

    async def report(self, _answer: object = None) -> None:
        """Call the observers with the complete answer, if there is one."""
        if self._completion is None or not self._serving.observers:
            return
        body = self._body
        if body is None:
            body = self._request.model_dump(mode="json", exclude_unset=True)
        seconds = time.perf_counter() - self._started
        await self._serving.report(
            Exchange(body, self._request, self._completion, self._caller, self._recorded, seconds)
        )

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._end(type(error).__name__)
            raise

    def _end(self, error: str | None = None) -> None:
        """Let the watcher know once."""
        if self._watch is not None:
            self._watch.end(self._completion, self.headers if error is None else {}, error)
            self._watch = None
