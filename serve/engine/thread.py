"""The bridge between an engine's thread and the event loop; neither blocks the other.

A step's outputs cross over in one call.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Sequence
from functools import partial

from potstill.errors import BackendUnavailableError
from serve.engine.engine import Engine
from serve.engine.model import GgufModel
from serve.engine.request import EngineLimits, Output, Request
from serve.engine.stats import EngineStats
from serve.failures import Failures

logger = logging.getLogger(__name__)


class EngineThread:
    """Runs one engine in its own thread, for one event loop.

    Args:
        draft: A smaller model of the same tokenizer, for speculative decoding.
    """

    def __init__(
        self,
        model: GgufModel,
        limits: EngineLimits,
        *,
        threads: int,
        draft: GgufModel | None = None,
    ) -> None:
        self._new_engine = partial(
            Engine, model, limits, threads=threads, deliver=self._deliver, draft=draft
        )
        self.engine = self._new_engine()
        self._generations: dict[Request, Generation] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failures = Failures()
        self._is_stopping = False
        self.has_failed = False
        """Whether the engine has failed so often that it is not started again."""
        self._thread = threading.Thread(
            target=self._run, name=f"engine {model.path.name}", daemon=True
        )

    def start(self) -> None:
        """Start the thread for the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def _run(self) -> None:
        """Run the engine, and another one after it has failed, but not again and again."""
        while not self.has_failed:
            try:
                self.engine.run()
            except Exception:
                logger.exception("an engine has failed to end")
                self.engine.has_failed = True
            if self._is_stopping or not self.engine.has_failed:
                return
            self._start_again()

    def _start_again(self) -> None:
        if self._failures.add():
            self.has_failed = True
            return
        try:
            self.engine = self._new_engine()
        except Exception:
            logger.exception("an engine cannot be started again")
            self.has_failed = True
        if self._is_stopping:
            self.engine.close()

    async def stop(self) -> None:
        """End the thread after the current step; requests in flight fail."""
        self._is_stopping = True
        self.engine.close()
        await asyncio.to_thread(self._thread.join)

    @property
    def is_ready(self) -> bool:
        """Whether requests are accepted and worked on."""
        return self._thread.is_alive() and self.engine.is_open

    @property
    def is_idle(self) -> bool:
        """Whether no answer is in progress or waits for its turn; embeddings do not count."""
        return not self._generations

    def submit(self, requests: Sequence[Request]) -> Generation:
        """Queue the requests of one answer.

        Raises:
            BackendUnavailableError: The engine does not run, or its queue is full.
            ContextLengthError: Prompt and completion do not fit.
            InvalidRequestError: A parameter is out of the model's range.
        """
        if not self.is_ready:
            raise BackendUnavailableError("the model is not running")
        generation = Generation(self, requests)
        self._generations.update(dict.fromkeys(requests, generation))
        try:
            self.engine.submit(requests)
        except BaseException:
            self.forget(requests)
            raise
        return generation

    async def embed(self, texts: Sequence[Sequence[int]], owner: str = "") -> list[list[float]]:
        """Return one vector of unit length for each text: the mean of its final hidden states.

        Raises:
            BackendError: The model computes none (`GgufModel.can_embed`), or llama.cpp fails.
            BackendUnavailableError: The engine does not run.
            ContextLengthError: A text is longer than the context.
            InvalidRequestError: A text is empty, or has a token the model does not have.
        """
        if not self.is_ready:
            raise BackendUnavailableError("the model is not running")
        return await asyncio.wrap_future(self.engine.embed(texts, owner))

    def stats(self) -> EngineStats:
        """Return the engine's load and totals."""
        return self.engine.stats()

    def forget(self, requests: Sequence[Request]) -> None:
        """Deliver nothing more for these requests."""
        for request in requests:
            self._generations.pop(request, None)

    def _deliver(self, outputs: list[tuple[Request, Output]]) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._dispatch, outputs)

    def _dispatch(self, outputs: list[tuple[Request, Output]]) -> None:
        for request, output in outputs:
            if generation := self._generations.get(request):
                generation.put(request, output)


class Generation:
    """The outputs of the requests of one answer, as they are generated."""

    def __init__(self, thread: EngineThread, requests: Sequence[Request]) -> None:
        self._thread = thread
        self._index_of = {request: index for index, request in enumerate(requests)}
        self._outputs: asyncio.Queue[tuple[int, Output]] = asyncio.Queue()
        self._unfinished = set(requests)

    def put(self, request: Request, output: Output) -> None:
        """Add an output, in the event loop."""
        self._outputs.put_nowait((self._index_of[request], output))
        if output.is_last:
            self._unfinished.discard(request)
            self._thread.forget([request])

    async def __aiter__(self) -> AsyncIterator[tuple[int, Output]]:
        """Yield each output with its request's index, until all requests are finished.

        Raises:
            BackendError: One of the requests failed; the others are cancelled.
        """
        try:
            while self._unfinished or not self._outputs.empty():
                index, output = await self._outputs.get()
                if output.error is not None:
                    raise output.error
                yield index, output
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Stop unfinished requests; does nothing if there are none."""
        unfinished = list(self._unfinished)
        self._unfinished.clear()
        if unfinished:
            self._thread.forget(unfinished)
            self._thread.engine.cancel(unfinished)
