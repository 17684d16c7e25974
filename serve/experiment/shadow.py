"""Shadow answers, generated in the background from a queue that drops rather than waits.

Nothing here makes a client wait, and no failure here reaches one.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from serve.experiment.config import ShadowConfig

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_WAITING_BYTES = 8 << 20
"""Bodies of the requests that wait, together: in memory each takes up to 25 times its length."""


class Shadow(Generic[T]):
    """A bounded queue with its workers, at which owners take turns.

    When it is full, the owner with most in it loses its newest request. So no owner keeps others'
    requests from being answered, or decides alone which pairs are judged.

    Args:
        answer: Generates one answer; the first exception is logged.
    """

    def __init__(self, config: ShadowConfig, answer: Callable[[T], Awaitable[None]]) -> None:
        self._config, self._answer = config, answer
        self._waiting: OrderedDict[str, deque[tuple[T, int]]] = OrderedDict()
        """Requests with the lengths of their bodies, by owner; whose turn is next is first."""
        self._has_new = asyncio.Event()
        self._workers: list[asyncio.Task[None]] = []
        self._has_failed = False
        self.num_dropped = 0
        """Requests that found the queue full."""

    @property
    def num_waiting(self) -> int:
        """Requests in the queue."""
        return sum(map(len, self._waiting.values()))

    def start(self) -> None:
        """Start the workers in the running event loop."""
        self._workers = [asyncio.create_task(self._work()) for _ in range(self._config.concurrency)]

    async def stop(self) -> None:
        """Stop the workers; unfinished requests are dropped."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    def offer(self, request: T, num_bytes: int = 0, owner: str = "") -> None:
        """Queue a request, with the configured probability and if there is room.

        Args:
            num_bytes: Length of its body.
            owner: Whose it is.
        """
        if random.random() >= self._config.share:  # not a secret
            return
        self._waiting.setdefault(owner, deque()).append((request, num_bytes))
        while self.num_waiting > self._config.queue:
            self._drop_from(max(self._waiting, key=lambda one: (self._num_of(one), one == owner)))
        while sum(map(self._num_bytes_of, self._waiting)) > MAX_WAITING_BYTES:
            self._drop_from(
                max(self._waiting, key=lambda one: (self._num_bytes_of(one), one == owner))
            )
        self._has_new.set()

    def next(self) -> T | None:
        """Take the first request of the owner whose last turn is the longest ago, if any waits."""
        if not self._waiting:
            return None
        owner, own = self._waiting.popitem(last=False)
        request, _ = own.popleft()
        if own:
            self._waiting[owner] = own
        return request

    def _num_of(self, owner: str) -> int:
        return len(self._waiting[owner])

    def _num_bytes_of(self, owner: str) -> int:
        return sum(num_bytes for _, num_bytes in self._waiting[owner])

    def _drop_from(self, owner: str) -> None:
        self.num_dropped += 1
        self._waiting[owner].pop()
        if not self._waiting[owner]:
            del self._waiting[owner]

    async def _work(self) -> None:
        while True:
            request = self.next()
            if request is None:
                self._has_new.clear()
                await self._has_new.wait()
                continue
            try:
                await self._answer(request)
            except Exception as error:
                if not self._has_failed:
                    logger.warning("a shadow answer failed with %s", type(error).__name__)
                self._has_failed = True
