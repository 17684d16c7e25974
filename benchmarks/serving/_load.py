"""Many concurrent streams on one server, and their results.

In: a base URL, bodies of chat requests. Out: times, texts, failures. Knows nothing of servers.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import numpy as np

TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True)
class Answer:
    """One streamed answer."""

    text: str
    num_pieces: int
    """Pieces of text that came one by one."""
    num_tokens: int
    """Tokens of the answer as the server counts them; its pieces where it does not."""
    first_token_seconds: float
    """From the request to its first text; infinite where none came."""
    waits_seconds: Sequence[float]
    """Between each piece and the one before it."""
    seconds: float
    failure: str | None
    """Why the answer is not complete."""


@dataclass(frozen=True)
class Load:
    """A server's results for all requests."""

    answers: Sequence[Answer]
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Of whole answers, all streams together."""
        return sum(one.num_tokens for one in self.answers if not one.failure) / self.seconds

    @property
    def num_failed(self) -> int:
        """Requests without a whole answer."""
        return sum(one.failure is not None for one in self.answers)

    def first_token_milliseconds(self, percent: float) -> float:
        """Return a percentile of the times to the first token, of whole answers."""
        times = [one.first_token_seconds for one in self.answers if not one.failure]
        return _percentile_milliseconds(times, percent)

    def next_token_milliseconds(self, percent: float) -> float:
        """Return a percentile of the times between tokens, of all whole answers together."""
        times = [wait for one in self.answers if not one.failure for wait in one.waits_seconds]
        return _percentile_milliseconds(times, percent)


def _percentile_milliseconds(seconds: Sequence[float], percent: float) -> float:
    return 1000 * float(np.percentile(seconds, percent)) if seconds else float("nan")


async def load(
    base_url: str, bodies: Sequence[dict[str, Any]], num_streams: int, key: str | None = None
) -> Load:
    """Send all requests, `num_streams` at a time."""
    waiting = iter(enumerate(bodies))
    answers: dict[int, Answer] = {}
    async with session(key) as http:

        async def work() -> None:
            for number, body in waiting:
                answers[number] = await stream(http, base_url, body)

        begin = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(num_streams)))
        seconds = time.perf_counter() - begin
    return Load([answers[number] for number in range(len(bodies))], seconds)


async def ask(base_url: str, body: dict[str, Any]) -> Answer:
    """Return the answer to one request; without a whole one, exit."""
    (answer,) = (await load(base_url, [body], 1)).answers
    if answer.failure:
        raise SystemExit(f"{base_url}: {answer.failure}")
    return answer


def session(key: str | None = None) -> aiohttp.ClientSession:
    """Return a client that waits long and opens a connection for every request."""
    return aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {key}"} if key else None,
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        timeout=aiohttp.ClientTimeout(TIMEOUT_SECONDS),
    )


async def stream(http: aiohttp.ClientSession, base_url: str, body: dict[str, Any]) -> Answer:
    """Send one request, and read the whole stream."""
    begin = time.perf_counter()
    pieces, times, num_tokens, reason, failure = [], [], 0, None, None
    body = body | {"stream": True, "stream_options": {"include_usage": True}}
    try:
        async with http.post(f"{base_url}/chat/completions", json=body) as got:
            if got.status != 200:
                failure = f"status {got.status}"
            async for event in events(got):
                if "error" in event:
                    failure = str(event["error"])
                num_tokens = (event.get("usage") or {}).get("completion_tokens") or num_tokens
                for choice in event.get("choices") or ():
                    if text := choice["delta"].get("content"):
                        times.append(time.perf_counter() - begin)
                        pieces.append(text)
                    reason = choice.get("finish_reason") or reason
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        failure = type(error).__name__
    if failure is None and (reason is None or not pieces):
        failure = "cut off"
    seconds = time.perf_counter() - begin
    num_tokens = num_tokens or len(pieces)
    first = times[0] if times else float("inf")
    waits = np.diff(times).tolist()
    return Answer("".join(pieces), len(pieces), num_tokens, first, waits, seconds, failure)


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """Yield the server-sent events of a response, without the last one's [DONE]."""
    async for line in response.content:
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])
