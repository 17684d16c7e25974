"""HTTP responses of replies: whole, or as server-sent events, for as long as the client listens.

However a response ends, the reply is cancelled, which frees its slots within one engine step.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from potstill.errors import PotstillError
from serve.api.http_errors import error_body, shutting_down
from serve.backends.protocol import Reply, ReplyWithHeaders
from serve.errors import RequestTimeoutError

logger = logging.getLogger(__name__)

STATUS_CLIENT_GONE = 499
DONE = b"data: [DONE]\n\n"

T = TypeVar("T")
Answer = TypeVar("Answer")
Chunk = TypeVar("Chunk")


async def respond(
    http: Request,
    asking: Coroutine[Any, Any, Reply[Answer, Chunk]],
    *,
    seconds: float,
    events: Callable[[Reply[Answer, Chunk]], AsyncIterator[bytes]] | None,
    shown: Callable[[Answer], object] = lambda answer: answer,
    finished: Callable[[Answer | None], Awaitable[None]] | None = None,
    failure: Callable[[Exception], bytes] = lambda error: server_sent(error_body(error)),
    ending: bytes = DONE,
) -> Response:
    """Return the response of the reply that `asking` returns.

    Args:
        seconds: How long the reply may take to begin, and then to complete.
        events: Makes the events of a stream; None sends the whole answer as JSON.
        shown: Makes the JSON of the whole answer.
        finished: Called with the whole answer, or with None after a complete stream was sent.
        failure: Makes the event of an error after a stream has begun.
        ending: What ends a stream.

    Raises:
        RequestTimeoutError: It takes too long, and nothing was sent yet.
    """
    reply = await whole(http, asking, seconds=seconds)
    if reply is None:
        return JSONResponse(None, STATUS_CLIENT_GONE)
    headers = reply.headers if isinstance(reply, ReplyWithHeaders) else {}
    if events is not None:
        return EventStream(
            events(reply),
            seconds=seconds,
            close=reply.cancel,
            finished=finished and partial(finished, None),
            failure=failure,
            ending=ending,
            headers=headers,
        )
    try:
        answer = await whole(http, reply.complete(), seconds=seconds)
    finally:
        reply.cancel()
    if answer is None:
        return JSONResponse(None, STATUS_CLIENT_GONE)
    if finished is not None:
        await finished(answer)
    return JSONResponse(shown(answer), headers=dict(headers))


async def whole(http: Request, work: Coroutine[Any, Any, T], *, seconds: float) -> T | None:
    """Return what `work` returns; None if the client disconnects, and `work` is cancelled.

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


def server_sent(content: object, event: str | None = None) -> bytes:
    """Return one server-sent event."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    head = f"event: {event}\n" if event else ""
    return f"{head}data: {text}\n\n".encode(errors="backslashreplace")


async def chunk_events(
    chunks: AsyncIterator[Mapping[str, Any]], *, with_usage: bool
) -> AsyncIterator[bytes]:
    """Yield chunks as events; without usage, the chunk that has nothing else is left out."""
    async for chunk in chunks:
        if with_usage:
            yield server_sent({**chunk, "usage": chunk.get("usage")})
        elif "usage" not in chunk:
            yield server_sent(chunk)
        elif chunk["choices"]:
            yield server_sent({name: chunk[name] for name in chunk if name != "usage"})


class EventStream(Response):
    """Server-sent events.

    Args:
        events: The events to send.
        seconds: How long sending may take.
        close: Called however the stream ends.
        finished: Called after the last event was sent.
        failure: Makes the event of an error.
        ending: Sent at the end.
    """

    def __init__(
        self,
        events: AsyncIterator[bytes],
        *,
        seconds: float,
        close: Callable[[], None],
        finished: Callable[[], Awaitable[None]] | None = None,
        failure: Callable[[Exception], bytes],
        ending: bytes,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(media_type="text/event-stream", headers=headers)
        del self.headers["content-length"]
        self.headers["Cache-Control"] = "no-cache"
        # nginx would buffer events otherwise.
        self.headers["X-Accel-Buffering"] = "no"
        self._events = events
        self._seconds = seconds
        self._close = close
        self._finished = finished
        self._failure = failure
        self._ending = ending
        self._is_whole = False

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until they end, the client disconnects or the time is up."""
        failure: PotstillError | None
        sending = asyncio.create_task(self._send(send))
        gone = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait(
                (sending, gone), timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED
            )
            timed_out = not (sending.done() or gone.done() or self._is_whole)
            failure = _too_slow(self._seconds) if timed_out else None
        except asyncio.CancelledError:
            # The time to drain is over, and the server ends.
            failure = None if self._is_whole else shutting_down()
        finally:
            await _cancelled(sending, gone)
            self._close()
        if self._is_whole and self._finished is not None:
            await self._finished()
        if failure is not None:
            content = self._failure(failure) + self._ending
            await send({"type": "http.response.body", "body": content})

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        try:
            async for event in self._events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            self._is_whole = True
        except Exception as error:
            if not isinstance(error, PotstillError):
                logger.error("a stream failed with %s", type(error).__name__)
            event = self._failure(error)
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": self._ending})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancelled(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait for their end; their exceptions were handled elsewhere."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _too_slow(seconds: float) -> RequestTimeoutError:
    return RequestTimeoutError(
        "the answer took too long",
        expected=f"at most {seconds:g} seconds",
        hint="ask for fewer tokens",
    )
