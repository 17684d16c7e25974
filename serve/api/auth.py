"""API keys: middleware that answers 401 or 429 before a body is read."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.api.http_errors import error_response
from serve.errors import InvalidKeyError
from serve.keys import Key, Keyring, rate_limited
from serve.rate_limits import Bucket

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/health", "/v1/health"})
"""Paths that need no key: health checks of load balancers."""

BODILESS = frozenset({"GET", "HEAD"})
"""Methods that need no key there: nobody's body is read without one."""


class RequireKey:
    """Accept requests only with `Authorization: Bearer <key>`, and within the key's limits.

    Args:
        open_paths: More paths that need no key.
    """

    def __init__(self, app: ASGIApp, keyring: Keyring, open_paths: Collection[str] = ()) -> None:
        self._app = app
        self._keyring = keyring
        self._open_paths = OPEN_PATHS | set(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401 or 429, or pass the request on."""
        is_open = scope["type"] == "http" and scope["method"] in BODILESS
        if scope["type"] != "http" or (is_open and scope["path"] in self._open_paths):
            await self._app(scope, receive, send)
            return
        key = self._key(scope)
        if key is None:
            response = error_response(InvalidKeyError("the API key is missing or wrong"))
            await response(scope, receive, send)
            return

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(dict(_limit_headers(key)))
            await send(message)

        wait = key.admit() if scope["method"] == "POST" else 0.0
        if wait:
            limited = rate_limited("this key has used up its limit per minute", wait)
            await error_response(limited)(scope, receive, send_with_limits)
            return
        scope.setdefault("state", {})["key"] = key
        await self._app(scope, receive, send_with_limits)

    def _key(self, scope: Scope) -> Key | None:
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        key = self._keyring.find(given.strip())
        return key if scheme.lower() == "bearer" else None


def _limit_headers(key: Key) -> Iterator[tuple[str, str]]:
    """Yield OpenAI's headers about the key's limits."""
    buckets: dict[str, Bucket | None] = {"requests": key.requests, "tokens": key.tokens}
    for name, bucket in buckets.items():
        if bucket is not None:
            allowance = bucket.allowance
            yield f"x-ratelimit-limit-{name}", str(allowance.limit)
            yield f"x-ratelimit-remaining-{name}", str(allowance.remaining)
            yield f"x-ratelimit-reset-{name}", f"{allowance.reset_seconds:.3f}s"
