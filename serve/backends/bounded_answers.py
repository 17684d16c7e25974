"""A limit on what other servers send: a longer answer fails before it fills the memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import httpx2
import openai


class UnusableAnswerError(openai.OpenAIError):
    """An answer that is not read; the client does not ask for it again."""


def bounded_client(max_bytes: int, **settings: Any) -> httpx2.AsyncClient:  # noqa: ANN401
    """Return a client that reads at most so much of each answer, and follows no redirects.

    A redirect would send the request, and what it holds, to another server.
    """

    async def bound(response: httpx2.Response) -> None:
        # A few kilobytes can become gigabytes.
        if response.headers.get("content-encoding", "identity") != "identity":
            raise UnusableAnswerError("the answer is compressed, which was not asked for")
        stream = cast(httpx2.AsyncByteStream, response.stream)
        response.stream = _BoundedStream(stream, max_bytes)

    return openai.DefaultAsyncHttpxClient(
        follow_redirects=False, event_hooks={"response": [bound]}, **settings
    )


class _BoundedStream(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, max_bytes: int) -> None:
        self._stream, self._num_left = stream, max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._stream:
            self._num_left -= len(piece)
            if self._num_left < 0:
                raise UnusableAnswerError("the answer is too long")
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()
