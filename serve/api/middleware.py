"""Middleware for every request: host check, limits on the body, counting."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Callable, Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from potstill.errors import PotstillError
from serve.api.http_errors import error_response, shutting_down
from serve.api.json_body import check_json
from serve.api.request_log import REQUEST_ID
from serve.errors import (
    ForeignPageError,
    InvalidRequestError,
    QueueFullError,
    RequestTooLargeError,
    SlowRequestError,
    UnsupportedContentError,
    WrongHostError,
)

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})


class CheckHost:
    """Refuse requests for other hosts, and those that other sites' pages make.

    By DNS rebinding, a web page can make a browser send requests to 127.0.0.1 under the page's own
    host name, and read the answers. Without that it cannot read them, but make the server work.

    Args:
        hosts: The accepted ones; "*" accepts all, and requests of all pages.
        origins: Those whose pages may call the server.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], origins: Collection[str] = ()) -> None:
        self._app = app
        self._hosts = hosts
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403 or 421, or pass the request on."""
        app = self._app
        if scope["type"] == "http" and "*" not in self._hosts:
            headers = Headers(scope=scope)
            host = headers.get("host", "").lower()
            name = host if host.endswith("]") else host.rpartition(":")[0] or host
            if name not in self._hosts:
                app = error_response(
                    WrongHostError(
                        "this server does not serve this host", hint="serve.allowed_hosts"
                    )
                )
            elif self._is_foreign(headers):
                app = error_response(
                    ForeignPageError(
                        "pages of other sites may not call this server", hint="serve.cors_origins"
                    )
                )
        await app(scope, receive, send)

    def _is_foreign(self, headers: Headers) -> bool:
        """Return whether a browser says that another site's page asks, other than by a link."""
        is_foreign = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        is_link = headers.get("sec-fetch-dest") == "document"
        is_allowed = bool({"*", headers.get("origin", "")} & {*self._origins})
        return is_foreign and not (is_link or is_allowed)


class ReadBody:
    """Read the whole body of a POST; refuse one that is not JSON, too large or too slow.

    The bodies of all requests in progress take at most `max_held_bytes`, and with several keys
    those of one key half of it: further ones get 429.

    Args:
        has_owners: True where there are several keys; it may change.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_bytes: int,
        seconds: float,
        max_held_bytes: int,
        has_owners: object = False,
    ) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._max_held_bytes = max(max_held_bytes, max_bytes)
        self._has_owners = has_owners
        self._held: Counter[str] = Counter()
        """Bytes of the bodies in progress, by key."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 400, 408, 413 or 415, or pass the request on."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            body = await self._read(scope, receive)
        except PotstillError as error:
            await error_response(error)(scope, receive, send)
            return
        if body is None:
            return  # the client has disconnected
        num_bytes = len(body)
        scope.setdefault("state", {})["num_body_bytes"] = num_bytes
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        app: ASGIApp = self._app
        try:
            check_json(body)
        except InvalidRequestError as error:
            app = error_response(error)
        del body

        async def receive_again() -> Message:
            return messages.pop() if messages else await receive()

        try:
            await app(scope, receive_again, send)
        finally:
            self._release(owner_of(scope), num_bytes)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return a body, which counts as held; None if the client disconnects."""
        headers, owner = Headers(scope=scope), owner_of(scope)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        # Browsers send other types across origins without a preflight request.
        if kind != "application/json":
            raise UnsupportedContentError(
                "the body must be JSON", where="Content-Type", expected="application/json"
            )
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._max_bytes:
            raise self._too_large()
        body, is_whole = bytearray(), False
        try:
            async with asyncio.timeout(self._seconds):
                while not is_whole:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    piece = message.get("body", b"")
                    body += piece
                    self._held[owner] += len(piece)
                    self._check_size(len(body), owner)
                    is_whole = not message.get("more_body", False)
        except TimeoutError:
            raise SlowRequestError(
                "the body did not arrive in time", expected=f"{self._seconds:g} seconds"
            ) from None
        finally:
            if not is_whole:
                self._release(owner, len(body))
        return bytes(body)

    def _release(self, owner: str, num_bytes: int) -> None:
        self._held[owner] -= num_bytes
        self._held += Counter()  # drops keys without bodies

    def _check_size(self, num_bytes: int, owner: str) -> None:
        if num_bytes > self._max_bytes:
            raise self._too_large()
        most = self._max_held_bytes
        most_of_one = max(most // 2, self._max_bytes) if self._has_owners else most
        if self._held.total() > most or self._held[owner] > most_of_one:
            raise QueueFullError(
                "the requests in progress are too large to take another", hint="try again later"
            )

    def _too_large(self) -> RequestTooLargeError:
        return RequestTooLargeError("the body is too large", expected=f"{self._max_bytes} bytes")


def owner_of(scope: Scope) -> str:
    """Return the name of the key that a request came with; "" where none is needed."""
    key = scope.get("state", {}).get("key")
    return "" if key is None else str(key.name)


class Count:
    """Give each request an id, and count it by route and status.

    What the server's end cuts off gets an error in OpenAI's shape, if nothing was sent yet.
    """

    def __init__(self, app: ASGIApp, count: Callable[[str, int], None]) -> None:
        self._app = app
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 499
        has_started = False
        started = time.perf_counter()
        request_id = f"req_{secrets.token_hex(12)}"
        REQUEST_ID.set(request_id)

        async def send_counted(message: Message) -> None:
            nonlocal status, has_started
            if message["type"] == "http.response.start":
                status, has_started = message["status"], True
                headers = MutableHeaders(scope=message)
                # OpenAI's name of it, and Anthropic's.
                headers["x-request-id"] = headers["request-id"] = request_id
                headers["openai-processing-ms"] = f"{1000 * (time.perf_counter() - started):.0f}"
            await send(message)

        try:
            await self._app(scope, receive, send_counted)
        except asyncio.CancelledError:
            # The time to drain is over, and the server ends.
            if has_started:
                raise
            await error_response(shutting_down())(scope, receive, send_counted)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            self._count(route, status)
