"""Limits on connections, below HTTP: what a client may hold before it has shown a key.

In: connections. Out: the same ones, as uvicorn's protocol with httptools handles them, except those
that exceed a limit, which are closed. A connection that waits for a request, or has sent only a
part of its head, makes room for a new one: a flood of half-sent requests keeps nobody out.
"""

from __future__ import annotations

import json
import logging
import resource
from collections import Counter, deque
from dataclasses import dataclass, replace
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

logger = logging.getLogger(__name__)

MAX_HEAD_BYTES = 32 * 1024
"""Largest request line with headers, or what surrounds a chunk of a body; nginx takes as much."""
MAX_HEADERS = 100
LENGTHS = frozenset({b"content-length", b"transfer-encoding"})
"""Headers of requests with a body."""
MAX_PIPELINED = 8
"""Requests that one connection may send ahead; no known client sends any."""
MANY_CHUNKS, LEAST_CHUNK_BYTES = 1 << 14, 64
"""Beyond so many chunks a body's must have so many bytes on average: each takes a microsecond, in
which nothing else runs."""
SWEEP_SECONDS = 1.0
MAX_STALLS = 10
"""How many write timeouts an answer may take to be fetched once it is complete."""
MAX_UNSENT_BYTES = 256 << 20
"""Of answers that wait for their clients, all together; an answer with all its log-probabilities
has 26 MB."""
SPARE_DESCRIPTORS = 512
"""File descriptors left for models, databases, child processes and upstream servers."""
NO_ROOM = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\n"
    b"connection: close\r\n\r\n"
)


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits of all connections; the meanings are those of `ServeConfig`."""

    max_connections: int
    max_connections_per_address: int
    head_timeout_seconds: float
    write_timeout_seconds: float


class Connections:
    """The open connections of a server."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._open: dict[Connection, str] = {}
        """The connections in the order of arrival, with their addresses."""
        self._num_open: Counter[str] = Counter()

    def connection(self, **given: Any) -> Connection:  # noqa: ANN401  (as uvicorn passes them)
        """Return the protocol of a new connection, for `uvicorn.Config(http=…)`."""
        return Connection(self, **given)

    def admit(self, new: Connection, address: str) -> bool:
        """Add a connection; close the one that has waited longest where there is no room.

        Returns:
            Whether there is room now.
        """
        if self._num_open[address] >= self.limits.max_connections_per_address:
            rivals = [one for one, origin in self._open.items() if origin == address]
        else:
            rivals = [*self._open] if len(self._open) >= self.limits.max_connections else []
        if rivals:
            oldest = next((one for one in rivals if one.is_waiting), None)
            if oldest is None:
                return False
            oldest.end()
        if not self._open:
            new.loop.call_later(SWEEP_SECONDS, self._sweep, new.loop)
        self._open[new] = address
        self._num_open[address] += 1
        return True

    def remove(self, old: Connection) -> None:
        """Forget a connection; does nothing the second time."""
        address = self._open.pop(old, None)
        if address is not None:
            self._num_open[address] -= 1
            if not self._num_open[address]:
                del self._num_open[address]

    def _sweep(self, loop: Any) -> None:  # noqa: ANN401  (uvicorn's loop, asyncio's or uvloop's)
        for one in [*self._open]:
            if one.is_overdue():
                one.end()
        self._make_room()
        if self._open:
            loop.call_later(SWEEP_SECONDS, self._sweep, loop)

    def _make_room(self) -> None:
        """Close connections while too many bytes are unsent: the fullest of who has most of them.

        Who reads does so faster than this is called, and has few.
        """
        unsent = {one: one.num_unsent_bytes for one in self._open if one.num_unsent_bytes}
        excess = sum(unsent.values()) - MAX_UNSENT_BYTES
        if excess <= 0:
            return
        owners: Counter[str] = Counter()
        for one, num_bytes in unsent.items():
            owners[one.owner] += num_bytes
        by_size = sorted(unsent, key=unsent.__getitem__)
        while excess > 0:
            most = max(owners, key=owners.__getitem__)
            fullest = next(one for one in reversed(by_size) if one.owner == most)
            by_size.remove(fullest)
            owners[most] -= unsent[fullest]
            excess -= unsent[fullest]
            fullest.end()


class Connection(HttpToolsProtocol):
    """One connection."""

    def __init__(self, connections: Connections, **given: Any) -> None:  # noqa: ANN401
        super().__init__(**given)
        self._all = connections
        # uvicorn's own 5 s are as long as httpx waits before it closes: both would race.
        self.timeout_keep_alive = connections.limits.head_timeout_seconds  # type: ignore[assignment]
        self._num_unread_bytes = 0
        """Bytes received since the last piece of a body, or since the last complete request."""
        self._num_unsent_bytes = 0
        self._num_chunks = self._num_body_bytes = 0
        """Of the latest request's body."""
        self._unanswered: deque[Any] = deque()
        """uvicorn's state of each request whose answer is not complete, in their order."""
        self._waiting_since = self._written_at = self.loop.time()

    @property
    def num_unsent_bytes(self) -> int:
        """Bytes of answers that were unsent when the connection was last looked at."""
        return self._num_unsent_bytes

    @property
    def owner(self) -> str:
        """The key that the latest request came with; without one, the client's address."""
        scope = {} if self.cycle is None else self.cycle.scope
        key = scope.get("state", {}).get("key")
        return f"address {self.client and self.client[0]}" if key is None else f"key {key.name}"

    @property
    def is_waiting(self) -> bool:
        """Whether the connection waits for a complete request head."""
        return self.cycle is None or self.cycle.response_complete

    def is_overdue(self) -> bool:
        """Return whether the client has exceeded a time limit."""
        now, limits = self.loop.time(), self._all.limits
        former = self._num_unsent_bytes
        self._num_unsent_bytes = self.transport.get_write_buffer_size()
        waiting_seconds = now - self._waiting_since if self.is_waiting else 0.0
        if not self._num_unsent_bytes:
            self._written_at = now
            return waiting_seconds > limits.head_timeout_seconds
        if self._num_unsent_bytes < former:
            self._written_at = now
        stalled_seconds = now - self._written_at
        longest = max(stalled_seconds, waiting_seconds / MAX_STALLS)
        return longest > limits.write_timeout_seconds

    def end(self) -> None:
        """Close at once; what was not sent is dropped."""
        self._all.remove(self)
        self._give_up()
        self.transport.abort()

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401  (as in uvicorn)
        """Begin, or refuse the connection."""
        super().connection_made(transport)
        if not self._all.admit(self, self.client[0] if self.client else ""):
            transport.write(NO_ROOM)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._all.remove(self)
        self._give_up()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read a part of a request."""
        self._num_unread_bytes += len(data)
        super().data_received(data)
        if self._num_unread_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("the head of the request is too large")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header, or refuse the request: an exception here ends the connection."""
        if len(self.headers) >= MAX_HEADERS:
            raise ValueError("too many headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer."""
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many requests at once")
        asks_for_upgrade = self.parser.should_upgrade()
        if asks_for_upgrade and LENGTHS & {name for name, _ in self.headers}:
            # The parser drops the body.
            raise ValueError("a request for another protocol with a body")
        self._num_chunks = self._num_body_bytes = 0
        former = self.cycle
        super().on_headers_complete()
        if self.cycle is not former:
            self._unanswered.append(self.cycle)
            # What follows a request for another protocol is not parsed.
            self.cycle.keep_alive = self.cycle.keep_alive and not asks_for_upgrade

    def on_chunk_header(self) -> None:
        """Count a chunk, or refuse the body."""
        self._num_chunks += 1
        least_bytes = LEAST_CHUNK_BYTES * self._num_chunks
        if self._num_chunks > MANY_CHUNKS and self._num_body_bytes < least_bytes:
            raise ValueError("too many small chunks")

    def on_body(self, body: bytes) -> None:
        """Keep a piece of a body."""
        self._num_unread_bytes = 0
        self._num_body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is complete."""
        self._num_unread_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._unanswered.popleft()
        self._waiting_since = self.loop.time()
        super().on_response_complete()

    def _give_up(self) -> None:
        """Let no answer go on: uvicorn ends that of the newest request alone, and only later."""
        for cycle in self._unanswered:
            cycle.disconnected = True
            cycle.message_event.set()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, or one with too large a head, and close."""
        if not self.is_waiting:
            self.end()  # an answer to an earlier request is on its way
            return
        is_large = self._num_unread_bytes > MAX_HEAD_BYTES or len(self.headers or ()) >= MAX_HEADERS
        status = b"431 Request Header Fields Too Large" if is_large else b"400 Bad Request"
        error = {"message": msg, "type": "invalid_request_error", "param": None, "code": None}
        content = json.dumps({"error": error}).encode()
        self.transport.write(
            b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%b" % (status, len(content), content)
        )
        self.transport.close()


def raise_descriptor_limit(limits: ConnectionLimits) -> ConnectionLimits:
    """Let this process open a file for each connection; return limits that it can keep.

    Without descriptors neither a client nor a health check could connect, and no child process
    could start.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.max_connections + SPARE_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    room = wanted if soft == resource.RLIM_INFINITY else soft
    most = max(1, min(limits.max_connections, max(room - SPARE_DESCRIPTORS, room // 2)))
    if most < limits.max_connections:
        logger.warning(
            "at most %d connections instead of %d: the process may open %d files",
            most, limits.max_connections, room,
        )  # fmt: skip
    return replace(limits, max_connections=most)
