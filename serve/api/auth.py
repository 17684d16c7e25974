"""API keys: middleware that answers 401 or 429 before a body is read.

Keys are long and random, so guessing is hopeless; but it must not fill the log or take time.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Collection, Iterator

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from potstill.errors import PotstillError
from serve.api.http_errors import error_response
from serve.errors import InvalidKeyError
from serve.keys import Key, Keyring, rate_limited
from serve.rate_limits import Bucket

logger = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/health", "/v1/health"})
"""Paths that need no key: health checks of load balancers."""

BODILESS = frozenset({"GET", "HEAD"})
"""Methods that need no key there: nobody's body is read without one."""


FAILURES_PER_MINUTE = 30
"""Requests of one address without an accepted key that get 401 and a line in the log."""
MAX_ADDRESSES = 4096
"""How many addresses are remembered."""


class RequireKey:
    """Accept requests only with a key, and within its limits.

    It is in `Authorization: Bearer <key>`, or, as Anthropic's clients send it, in `x-api-key`.

    Args:
        open_paths: More paths that need no key.
    """

    def __init__(self, app: ASGIApp, keyring: Keyring, open_paths: Collection[str] = ()) -> None:
        self._app = app
        self._keyring = keyring
        self._failures = _Failures()
        self._open_paths = OPEN_PATHS | set(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401 or 429, or pass the request on."""
        is_open = scope["type"] == "http" and scope["method"] in BODILESS
        if scope["type"] != "http" or (is_open and scope["path"] in self._open_paths):
            await self._app(scope, receive, send)
            return
        key = self._key(scope)
        if key is None:
            await error_response(self._failures.note(scope))(scope, receive, send)
            return

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(dict(_limit_headers(key)))
            await send(message)

        wait = key.admit() if scope["method"] == "POST" else 0.0
        if wait:
            limited = rate_limited("this key has used up its limit", wait)
            await error_response(limited)(scope, receive, send_with_limits)
            return
        scope.setdefault("state", {})["key"] = key
        key.num_active += 1
        try:
            await self._app(scope, receive, send_with_limits)
        finally:
            key.num_active -= 1

    def _key(self, scope: Scope) -> Key | None:
        return self._keyring.find(_given_key(scope))


def _given_key(scope: Scope) -> str:
    """Return the key that a request has; empty without one."""
    headers = Headers(scope=scope)
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        given = headers.get("x-api-key", "")
    return given.strip()


class _Failures:
    """Requests without an accepted key, by address: few are logged, and many get 429.

    An accepted key is accepted from any address: that of a proxy is everybody's.
    """

    def __init__(self) -> None:
        self._left: OrderedDict[str, Bucket] = OrderedDict()

    def note(self, scope: Scope) -> PotstillError:
        """Count one, and return the error to answer with."""
        address = scope["client"][0] if scope.get("client") else ""
        bucket = self._left.pop(address, None) or Bucket(FAILURES_PER_MINUTE)
        self._left[address] = bucket
        if len(self._left) > MAX_ADDRESSES:
            self._left.popitem(last=False)
        if wait := bucket.seconds_until(1):
            return rate_limited("too many requests without an accepted key", wait)
        bucket.take(1)
        logger.warning("%s key from %s", "a wrong" if _given_key(scope) else "no", address)
        if bucket.seconds_until(1):
            logger.warning("%s gets 429 now, and is not logged", address)
        return InvalidKeyError("the API key is missing or wrong")


def _limit_headers(key: Key) -> Iterator[tuple[str, str]]:
    """Yield OpenAI's headers about the key's limits."""
    tokens = key.tokens or key.daily_tokens
    buckets: dict[str, Bucket | None] = {"requests": key.requests, "tokens": tokens}
    for name, bucket in buckets.items():
        if bucket is not None:
            allowance = bucket.allowance
            yield f"x-ratelimit-limit-{name}", str(allowance.limit)
            yield f"x-ratelimit-remaining-{name}", str(allowance.remaining)
            yield f"x-ratelimit-reset-{name}", f"{allowance.reset_seconds:.3f}s"
