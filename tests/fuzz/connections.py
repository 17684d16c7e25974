"""Bytes on the server's connections, below HTTP."""

from __future__ import annotations

import re
import socket

from tests.fuzz.harness import INPUT_SECONDS, Take, Target
from tests.fuzz.mutation import WordMutator

WORD = r"[A-Za-z-]+:|\r\n|[\w./]+"
WORDS = (
    "\r\n", "\n", "\r", " ", ":", "GET ", "POST ", "/healthz", "/v1/chat/completions", "HTTP/1.1",
    "HTTP/1.0", "HTTP/9.9", "Host: x\r\n", "Content-Length: 5\r\n", "Content-Length: -1\r\n",
    "Content-Length: 99999999999999999999\r\n", "Transfer-Encoding: chunked\r\n", "0\r\n\r\n",
    "5\r\nhello\r\n", "ffffffffffffffff\r\n", "Expect: 100-continue\r\n", "Upgrade: websocket\r\n",
    "Connection: Upgrade\r\n", "Connection: close\r\n", "Authorization: Bearer \xff\r\n",
    "x-potstill-user: \x00\r\n", "x: " + "a" * 3000 + "\r\n", "%00", "%ff", "?a=%zz", "\0", "é",
)  # fmt: skip
STATUS = re.compile(rb"^HTTP/1\.[01] (\d{3}) ", re.MULTILINE)


def _prepare() -> Take:
    from tests.fuzz.serving import is_ready, started_server

    port = started_server()
    count = 0

    def take(data: bytes) -> None:
        nonlocal count
        count += 1
        content = b""
        with socket.create_connection(("127.0.0.1", port), timeout=INPUT_SECONDS) as client:
            try:
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                while piece := client.recv(1 << 16):
                    content += piece
            except TimeoutError:
                raise
            except OSError:
                pass  # closed in the middle, as it may be
        assert all(int(status) < 500 for status in STATUS.findall(content)), content
        assert count % 100 or is_ready(port)

    return take


TARGETS = [
    Target(
        "connection",
        _prepare,
        nightly_runs=20_000,
        short_runs=200,
        mutate=WordMutator(WORD, WORDS),
        max_bytes=1 << 16,
    )
]
