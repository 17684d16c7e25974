"""Shadow answers, generated in the background from a queue that drops rather than waits.

Nothing here makes a client wait, and no failure here reaches one.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from serve.experiment.config import ShadowConfig

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_WAITING_BYTES = 8 << 20
"""Bodies of the requests that wait, together: in memory each takes up to 25 times its length."""


class Shadow(Generic[T]):
    """A bounded queue with its workers.

    Args:
        answer: Generates one answer; the first exception is logged.
    """

    def __init__(self, config: ShadowConfig, answer: Callable[[T], Awaitable[None]]) -> None:
        self._config, self._answer = config, answer
        self._queue: asyncio.Queue[tuple[T, int]] = asyncio.Queue(config.queue)
        self._num_waiting_bytes = 0
        self._workers: list[asyncio.Task[None]] = []
        self._has_failed = False
        self.num_dropped = 0
        """Requests that found the queue full."""

    @property
    def num_waiting(self) -> int:
        """Requests in the queue."""
        return self._queue.qsize()

    def start(self) -> None:
        """Start the workers in the running event loop."""
        self._workers = [asyncio.create_task(self._work()) for _ in range(self._config.concurrency)]

    async def stop(self) -> None:
        """Stop the workers; unfinished requests are dropped."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    def offer(self, request: T, num_bytes: int = 0) -> None:
        """Queue a request, with the configured probability and if there is room.

        Args:
            num_bytes: Length of its body.
        """
        if random.random() >= self._config.share:  # not a secret
            return
        if self._queue.full() or self._num_waiting_bytes + num_bytes > MAX_WAITING_BYTES:
            self.num_dropped += 1
            return
        self._num_waiting_bytes += num_bytes
        self._queue.put_nowait((request, num_bytes))

    async def _work(self) -> None:
        while True:
            request, num_bytes = await self._queue.get()
            self._num_waiting_bytes -= num_bytes
            try:
                await self._answer(request)
            except Exception as error:
                if not self._has_failed:
                    logger.warning("a shadow answer failed with %s", type(error).__name__)
                self._has_failed = True
