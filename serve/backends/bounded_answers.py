"""A limit on what other servers send: a longer answer fails before it fills the memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from operator import add, gt
from typing import Any, cast

import httpx2
import openai

MAX_CONTAINERS = 1 << 20
"""Most objects and lists of an answer: 262,144 log-probabilities have 540,000. In memory each takes
up to 30 times its length."""
MAX_VALUES = 1 << 22
"""Most values of any kind: the embeddings of 2,048 texts have 2,097,152 numbers."""
MAX_LINES = 1 << 20
"""Most lines of a stream: each token's event has two."""


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
        # JSON is UTF-8. Of Python's other encodings some take hours: punycode's time is quadratic.
        response.encoding = "utf-8"
        stream = cast(httpx2.AsyncByteStream, response.stream)
        response.stream = _BoundedStream(stream, max_bytes)

    return openai.DefaultAsyncHttpxClient(
        follow_redirects=False, event_hooks={"response": [bound]}, **settings
    )


class _BoundedStream(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, max_bytes: int) -> None:
        self._stream = stream
        self._most = (max_bytes, MAX_CONTAINERS, MAX_VALUES, MAX_LINES)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        found = (0, 0, 0, 0)
        async for piece in self._stream:
            found = tuple(map(add, found, _counts(piece)))
            if any(map(gt, found, self._most)):
                raise UnusableAnswerError("the answer is too long, or has too many parts")
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


def _counts(piece: bytes) -> tuple[int, int, int, int]:
    """Return how many bytes, containers, values and lines of JSON or events a piece may have."""
    num_opened = piece.count(b"{") + piece.count(b"[")
    num_lines = piece.count(b"\n") + piece.count(b"\r")
    return len(piece), num_opened, num_opened + piece.count(b","), num_lines
