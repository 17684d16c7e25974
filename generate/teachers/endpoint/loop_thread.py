"""Coroutines behind a plain iterator: bounded in number, and cancelled when it is closed.

In: a source of requests, and a coroutine function for them. Out: results as they finish, in the
caller's thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")


class LoopThread:
    """An event loop in its own thread."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        # A daemon, so that an interrupted interpreter does not wait for a server.
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Run a coroutine to its end and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    @property
    def closed(self) -> bool:
        """Whether the thread has ended."""
        return self._loop.is_closed()

    def close(self) -> None:
        """Cancel running coroutines and end the thread."""
        self.run(_cancel_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def results(
        self,
        next_requests: Callable[[int], Sequence[RequestT]],
        work: Callable[[RequestT], Coroutine[Any, Any, ResultT]],
        *,
        max_in_flight: int,
        admit: Callable[[RequestT], bool],
        refused: Callable[[], Exception],
    ) -> Iterator[ResultT]:
        """Run `work` on requests; yield results as they finish.

        Closing the iterator cancels everything in flight, so use one iterator at a time.

        Args:
            next_requests: Called in the caller's thread, for up to the given number of requests,
                whenever there is room. The work is done when it returns none while nothing is in
                flight.
            work: The coroutine function for a request.
            max_in_flight: Largest number of requests in flight.
            admit: Called before a request begins; if it returns False, called again after another
                request has finished.
            refused: Returns the exception to raise when a request is not admitted although nothing
                is in flight.
        """
        waiting: deque[RequestT] = deque()
        in_flight: set[Future[ResultT]] = set()
        finished: SimpleQueue[Future[ResultT]] = SimpleQueue()
        try:
            while True:
                room = max_in_flight - len(in_flight) - len(waiting)
                if room > 0 and not waiting:
                    waiting.extend(next_requests(room))
                while waiting and admit(waiting[0]):
                    future = asyncio.run_coroutine_threadsafe(work(waiting.popleft()), self._loop)
                    in_flight.add(future)
                    future.add_done_callback(finished.put)
                if not in_flight:
                    if waiting:
                        raise refused()
                    return
                future = finished.get()
                in_flight.remove(future)
                yield future.result()
        finally:
            if in_flight and not self.closed:
                self.run(_cancel_others())


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
