"""The door: a Bearer key, when there is one to ask for.

In: ASGI requests. Out: the same, or 401 before a body is read. Knows nothing of what is behind it.
"""

from __future__ import annotations

import hashlib
import hmac

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.api.wire import ErrorBody

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""Paths that need no key: what a load balancer asks."""


class RequireKey:
    """Let a request pass only with `Authorization: Bearer <key>`.

    Keys are compared as digests, in constant time: neither content nor length leaks.
    """

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._digest = _digest(key.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401, or pass on."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self._has_key(scope):
            await self._app(scope, receive, send)
            return
        body: ErrorBody = {
            "error": {
                "message": "the API key is missing or wrong",
                "type": "invalid_request_error",
                "param": None,
                "code": "invalid_api_key",
            }
        }
        response = JSONResponse(body, 401, {"WWW-Authenticate": "Bearer"})
        await response(scope, receive, send)

    def _has_key(self, scope: Scope) -> bool:
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        given = _digest(key.strip().encode("latin-1"))
        return hmac.compare_digest(given, self._digest) and scheme.lower() == "bearer"


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
