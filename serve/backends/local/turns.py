"""Threads for work beside the event loop, of which no key takes all.

In: functions, and whose they are. Out: what they return. A thread cannot be stopped: it stays taken
until its work is done, also where nobody waits for that any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")


class SharedThreads:
    """Threads of which each owner takes at most half at a time.

    Args:
        name: What the threads' names begin with.
    """

    def __init__(self, count: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)
        self._num_each = max(1, count // 2)
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def run(self, work: Callable[[], T], owner: str | None) -> T:
        """Return what `work` returns.

        Args:
            owner: None may take all threads.
        """
        loop = asyncio.get_running_loop()
        if owner is None:
            return await loop.run_in_executor(self._pool, work)
        turn = self._turns.setdefault(owner, asyncio.Semaphore(self._num_each))
        await turn.acquire()

        def end(_future: object) -> None:
            with suppress(RuntimeError):  # the loop may have ended before the work
                loop.call_soon_threadsafe(turn.release)

        try:
            future = self._pool.submit(work)
        except BaseException:
            turn.release()
            raise
        future.add_done_callback(end)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Drop what has not begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)
