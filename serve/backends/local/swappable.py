"""A model name whose model can be replaced while it answers.

Each request is answered by one model from its first to its last token. The replaced one stops when
nothing of it is in progress.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from serve.backends.local.backend import LocalBackend
from serve.backends.local.chat_reply import LocalChatReply
from serve.backends.local.text_reply import LocalTextReply
from serve.backends.protocol import Caller
from serve.wire.chat import ChatRequest
from serve.wire.completions import CompletionRequest
from serve.wire.embeddings import EmbeddingList, EmbeddingRequest
from serve.wire.models import ModelCard

IDLE_SECONDS = 0.1
"""How often a replaced model is asked whether it is idle."""


class SwappableBackend:
    """The backend of a name, which passes everything on to the model that it has at the time.

    Args:
        version: The student's version; None of a model without versions.
    """

    def __init__(self, local: LocalBackend, version: int | None = None) -> None:
        self._now, self._version = local, version
        self._num_calls: Counter[LocalBackend] = Counter()
        self._former: list[LocalBackend] = []

    def replace(self, local: LocalBackend, version: int | None) -> LocalBackend:
        """Answer further requests with another model, which is started; return the former one."""
        former, self._now, self._version = self._now, local, version
        self._former.append(former)
        return former

    async def until_idle(self, former: LocalBackend) -> None:
        """Wait until nothing of a replaced model is in progress, under any of its names."""
        while self._num_calls[former] or not former.local.engine.is_idle:
            await asyncio.sleep(IDLE_SECONDS)

    async def retire(self, former: LocalBackend) -> None:
        """Stop a replaced model; unfinished answers fail."""
        await former.stop()
        self._former.remove(former)
        del self._num_calls[former]

    @contextmanager
    def in_use(self) -> Iterator[LocalBackend]:
        """Yield the model, which is not stopped within the block."""
        now = self._now
        self._num_calls[now] += 1
        try:
            yield now
        finally:
            self._num_calls[now] -= 1

    @property
    def card(self) -> ModelCard:
        """The model as OpenAI lists it, with its version."""
        card = self._now.card
        return card if self._version is None else {**card, "version": self._version}

    @property
    def is_ready(self) -> bool:
        """Whether requests are accepted."""
        return self._now.is_ready

    @property
    def has_failed(self) -> bool:
        """Whether the model will not work again in this process."""
        return self._now.has_failed

    async def start(self) -> None:
        """Start the engine for the running event loop."""
        await self._now.start()

    async def stop(self) -> None:
        """Stop; unfinished answers fail."""
        await asyncio.gather(*(one.stop() for one in (self._now, *self._former)))

    async def chat(self, request: ChatRequest, caller: Caller) -> LocalChatReply:
        """Accept a chat request; raises as `LocalBackend.chat` does."""
        with self.in_use() as now:
            return await now.chat(request, caller)

    async def complete_text(self, request: CompletionRequest, caller: Caller) -> LocalTextReply:
        """Accept a request for text; raises as `LocalBackend.complete_text` does."""
        with self.in_use() as now:
            return await now.complete_text(request, caller)

    async def embed(self, request: EmbeddingRequest, caller: Caller) -> EmbeddingList:
        """Compute the embeddings of texts; raises as `LocalBackend.embed` does."""
        with self.in_use() as now:
            return await now.embed(request, caller)
