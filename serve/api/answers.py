"""Answers on their way out: whole, or as server-sent events, for as long as the client listens.

In: what a backend makes. Out: HTTP responses. However an answer ends, its slots are freed within
a step of the engine. Knows nothing of routes or shapes.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import Any, Protocol, TypeVar

from fastapi import Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from potstill.errors import PotstillError
from serve.api.http_errors import error_body
from serve.errors import RequestTimeoutError

logger = logging.getLogger(__name__)

STATUS_CLIENT_GONE = 499
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Done = b"data: [DONE]\n\n"


class Reply(Protocol[T_co]):
    """What can be waited for and stopped."""

    def complete(self) -> Coroutine[Any, Any, T_co]:
        """Wait for the whole answer."""
        ...

    def cancel(self) -> None:
        """Free all that still works for it."""
        ...


def server_sent(content: object, event: str | None = None) -> bytes:
    """Return one server-sent event."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    head = f"event: {event}\n" if event else ""
    return f"{head}data: {text}\n\n".encode(errors="backslashreplace")


async def whole(http: Request, work: Coroutine[Any, Any, T], *, seconds: float) -> T | None:
    """Return what `work` returns, or None as soon as the client is gone; `work` is then stopped.

    Raises:
        RequestTimeoutError: It takes too long.
    """
    working = asyncio.create_task(work)
    gone = asyncio.create_task(_disconnected(http.receive))
    tasks = (working, gone)
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        if gone.done():
            return None
        raise _too_slow(seconds)
    finally:
        await _cancelled(*tasks)


async def completed(http: Request, reply: Reply[T], *, seconds: float) -> T | None:
    """Return the whole of a reply as `whole` does; what works for it is freed in any case.

    Raises:
        RequestTimeoutError: It takes too long.
    """
    try:
        return await whole(http, reply.complete(), seconds=seconds)
    finally:
        reply.cancel()


class EventStream(Response):
    """Server-sent events.

    Args:
        events: What is sent.
        seconds: How long it may take.
        close: Called however the stream ends.
        finished: Called after the last event was sent.
    """

    def __init__(
        self,
        events: AsyncIterator[bytes],
        *,
        seconds: float,
        close: Callable[[], None],
        finished: Callable[[], Awaitable[None]] | None = None,
        ending: bytes = Done,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(media_type="text/event-stream", headers=headers)
        del self.headers["content-length"]
        self.headers["Cache-Control"] = "no-cache"
        # nginx would collect events otherwise.
        self.headers["X-Accel-Buffering"] = "no"
        self._events = events
        self._seconds = seconds
        self._close = close
        self._finished = finished
        self._ending = ending
        self._is_whole = False

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until they end, the client is gone or the time is up."""
        sending = asyncio.create_task(self._send(send))
        gone = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait(
                (sending, gone), timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED
            )
            timed_out = not (sending.done() or gone.done() or self._is_whole)
        finally:
            await _cancelled(sending, gone)
            self._close()
        if self._is_whole and self._finished is not None:
            await self._finished()
        if timed_out:
            content = server_sent(error_body(_too_slow(self._seconds))) + self._ending
            await send({"type": "http.response.body", "body": content})

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        try:
            async for event in self._events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            self._is_whole = True
        except PotstillError as error:
            failure = server_sent(error_body(error))
            await send({"type": "http.response.body", "body": failure, "more_body": True})
        except Exception as error:
            logger.error("a stream failed with %s", type(error).__name__)
            failure = server_sent(error_body(error))
            await send({"type": "http.response.body", "body": failure, "more_body": True})
        await send({"type": "http.response.body", "body": self._ending})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancelled(*tasks: asyncio.Task[Any]) -> None:
    """Stop tasks, and wait until they have stopped; what they raised was told elsewhere."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _too_slow(seconds: float) -> RequestTimeoutError:
    return RequestTimeoutError(
        "the answer took too long",
        expected=f"at most {seconds:g} seconds",
        hint="ask for fewer tokens",
    )
