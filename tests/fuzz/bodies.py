"""Requests to every route of the whole server: a line with the path, then the body, if any."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import quote

from tests.fuzz.harness import INPUT_SECONDS, SEEDS, Take, Target
from tests.fuzz.mutation import JsonMutator

PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))
SERVER_ERRORS = {"server_error", "api_error", "internal_error", "overloaded_error"}
"""Types of errors that are the server's, in the events of streams."""
JSON_KIND = {"Content-Type": "application/json"}


def _prepare() -> Take:
    from tests.fuzz.serving import started_server

    port = started_server()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=INPUT_SECONDS)

    def take(data: bytes) -> None:
        head, _, body = data.partition(b"\n")
        path = "/" + quote(head.decode(errors="replace"), safe=PRINTABLE).lstrip("/")
        try:
            connection.request("POST" if body else "GET", path, body or None, JSON_KIND)
            response = connection.getresponse()
            content = response.read()
        except (http.client.RemoteDisconnected, ConnectionError):
            # Refused below HTTP, as a path that is too long; the next request connects again.
            connection.close()
            return
        assert response.status < 500, (response.status, content)
        kind = response.headers.get_content_type()
        if kind == "application/json":
            json.loads(content)
        elif kind == "text/event-stream":
            _check_events(content.decode())

    return take


def _check_events(text: str) -> None:
    """Make sure that events are JSON, and that no stream failed for a reason of the server's."""
    for line in text.splitlines():
        if not line.startswith("data: ") or line == "data: [DONE]":
            continue
        event: Any = json.loads(line.removeprefix("data: "))
        error = event.get("error") or (event.get("response") or {}).get("error") or {}
        assert error.get("type", error.get("code")) not in SERVER_ERRORS, event


TARGETS = [
    Target(
        "body",
        _prepare,
        nightly_runs=20_000,
        short_runs=200,
        mutate=JsonMutator([SEEDS / "body"], head=True),
    )
]
