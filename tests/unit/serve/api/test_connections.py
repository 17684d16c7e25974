"""What a client can hold without a key, on the real protocol under real sockets."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest
import uvicorn

from serve.api import connections
from serve.api.connections import ConnectionLimits, Connections, raise_descriptor_limit

LIMITS = ConnectionLimits(
    max_connections=8,
    max_connections_per_address=8,
    head_timeout_seconds=0.1,
    write_timeout_seconds=0.1,
)
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
HALF = GET[:-2]
CHUNKED = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
BIG = 8 << 20


async def app(scope, receive, send) -> None:
    """Answer at once; `/big` with more than a socket takes, `/busy` never."""
    headers = [(b"content-length", b"%d" % (BIG if scope["path"] == "/big" else 2))]
    if scope["method"] == "POST":
        while (await receive()).get("more_body"):
            pass
    if scope["path"] == "/busy":
        await receive()
        await receive()
        return
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    body = bytes(BIG) if scope["path"] == "/big" else b"ok"
    await send({"type": "http.response.body", "body": body})


class Client:
    """Connections to a server in this event loop."""

    def __init__(self, server: uvicorn.Server, port: int) -> None:
        self.server, self.port = server, port
        self.writers: list[asyncio.StreamWriter] = []

    async def send(self, *pieces: bytes) -> asyncio.StreamReader:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        for piece in pieces:
            writer.write(piece)
        with suppress(ConnectionError):
            await writer.drain()
        return reader

    async def status(self, *pieces: bytes) -> int:
        reader = await self.send(*pieces)
        async with asyncio.timeout(5):
            return int((await reader.readline()).split()[1])

    async def num_open_is(self, wanted: int) -> bool:
        for _ in range(100):
            if len(self.server.server_state.connections) == wanted:
                return True
            await asyncio.sleep(0.02)
        return False


@asynccontextmanager
async def serving(limits: ConnectionLimits) -> AsyncIterator[Client]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            app,
            http=Connections(limits).connection,
            lifespan="off",
            log_config=None,
            timeout_graceful_shutdown=0,
        )
        server = uvicorn.Server(config)
        task = asyncio.create_task(server._serve([listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        client = Client(server, listener.getsockname()[1])
        yield client
        server.should_exit = True
        for writer in client.writers:
            writer.transport.abort()
        await task


@pytest.fixture(autouse=True)
def swept_often(monkeypatch):
    monkeypatch.setattr(connections, "SWEEP_SECONDS", 0.02)


def run(attack: Callable[[Client], Awaitable[None]], limits: ConnectionLimits = LIMITS) -> None:
    async def attacked() -> None:
        async with serving(limits) as client:
            await attack(client)

    asyncio.run(attacked())


def test_half_sent_requests_keep_nobody_out_and_are_closed():
    async def attack(client: Client) -> None:
        for _ in range(3 * LIMITS.max_connections):
            await client.send(HALF)
        assert len(client.server.server_state.connections) <= LIMITS.max_connections + 1
        assert await client.status(GET) == 200
        assert await client.num_open_is(0)

    run(attack)


def test_an_idle_connection_is_kept_as_long_as_a_head_may_take(monkeypatch):
    monkeypatch.setattr(connections, "SWEEP_SECONDS", 60.0)  # what closes it is not the sweep

    async def attack(client: Client) -> None:
        assert await client.status(GET) == 200
        assert await client.num_open_is(0)

    run(attack)


def test_connections_that_are_being_answered_are_kept():
    async def attack(client: Client) -> None:
        for _ in range(LIMITS.max_connections):
            await client.send(GET.replace(b"/ ", b"/busy "))
        while len(client.server.server_state.tasks) < LIMITS.max_connections:
            await asyncio.sleep(0.01)
        assert await client.status(GET) == 503
        assert await client.num_open_is(LIMITS.max_connections)

    run(attack, replace(LIMITS, head_timeout_seconds=10.0))


def test_an_unread_answer_ends_its_connection():
    async def attack(client: Client) -> None:
        reader = await client.send(GET.replace(b"/ ", b"/big "))
        reader._transport.pause_reading()
        assert await client.num_open_is(0)

    run(attack)


def test_answers_that_many_leave_unread_are_bounded_together(monkeypatch):
    monkeypatch.setattr(connections, "MAX_UNSENT_BYTES", 2 * BIG)
    limits = replace(LIMITS, head_timeout_seconds=10.0, write_timeout_seconds=10.0)

    async def attack(client: Client) -> None:
        readers = [await client.send(GET.replace(b"/ ", b"/big ")) for _ in range(6)]
        for reader in readers:
            reader._transport.pause_reading()
        open_ = client.server.server_state.connections
        async with asyncio.timeout(5):
            while len(open_) == 6 or sum(one.num_unsent_bytes for one in open_) > 2 * BIG:
                await asyncio.sleep(0.02)
        assert len(open_) > 1
        assert await client.status(GET) == 200

    run(attack, limits)


def test_a_body_that_is_still_sent_after_the_answer_ends_its_connection():
    async def attack(client: Client) -> None:
        await client.send(b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n")
        for _ in range(10):
            client.writers[0].write(b"x")
            await asyncio.sleep(0.02)
        assert await client.num_open_is(0)

    run(attack)


HEADS = {
    "50 headers": ([HALF, *[b"a: b\r\n"] * 50, b"\r\n"], 200),
    "200 headers": ([HALF, *[b"a: b\r\n"] * 200, b"\r\n"], 431),
    "a long header": ([HALF, b"a: ", *[b"b" * 1000] * 100], 431),
    "a long path": ([b"GET /", *[b"a" * 1000] * 100], 431),
    "blank lines": ([b"\r\n" * 40_000], 431),
    "small chunks": ([CHUNKED, *[b"1\r\nx\r\n"] * 10_000, b"0\r\n\r\n"], 200),
    "small chunks without end": ([CHUNKED, *[b"1\r\nx\r\n" * 10_000] * 3], None),
    "an upgrade": ([HALF, b"connection: upgrade\r\nupgrade: h2c\r\n\r\n"], 200),
    "an upgrade with a body": (
        [CHUNKED[:-2], b"connection: upgrade\r\nupgrade: h2c\r\n\r\n1\r\nx\r\n0\r\n\r\n"],
        400,
    ),
    "a long chunk extension": ([CHUNKED, b"1;a=", *[b"b" * 1000] * 100], None),
    "a long trailer": ([CHUNKED, b"0\r\na: ", *[b"b" * 1000] * 100], None),
    "1000 requests at once": ([GET * 1000], None),
    "nonsense": ([b"nonsense\r\n\r\n"], 400),
}
"""What is sent, and the status that is answered; None where the connection ends without one."""


def test_the_head_of_a_request_is_bounded():
    async def attack(client: Client) -> None:
        for name, (pieces, status) in HEADS.items():
            if status is not None:
                assert await client.status(*pieces) == status, name
                continue
            reader = await client.send(*pieces)
            async with asyncio.timeout(5):
                with suppress(ConnectionError):
                    assert (await reader.read()).count(b"200 OK") < 10, name

    run(attack, replace(LIMITS, head_timeout_seconds=10.0))


def test_small_chunks_that_nobody_reads_let_others_be_answered():
    async def attack(client: Client) -> None:
        for _ in range(8):
            reader = await client.send(CHUNKED.replace(b"POST", b"GET"))
            await reader.readline()
        for writer in client.writers:
            writer.write(b"1\r\nx\r\n" * 500_000)
        started = time.process_time()
        assert await client.status(GET) == 200
        assert time.process_time() - started < 1.0
        assert await client.num_open_is(0)

    run(attack)


def test_the_process_may_open_a_file_for_each_connection(caplog):
    former = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, former[1]))
        wide = ConnectionLimits(1000, 1000, 1.0, 1.0)
        assert raise_descriptor_limit(wide) == wide
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 1000
        hopeless = ConnectionLimits(10**9, 1000, 1.0, 1.0)
        kept = raise_descriptor_limit(hopeless).max_connections
        assert kept < resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        assert "at most" in caplog.text
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, former)


@pytest.mark.parametrize("is_malformed", [False, True], ids=["it closes", "it sends nonsense"])
def test_answers_to_all_requests_of_a_lost_client_end(is_malformed):
    async def attack(client: Client) -> None:
        await client.send(2 * GET.replace(b"/ ", b"/busy "))
        while not (tasks := client.server.server_state.tasks):
            await asyncio.sleep(0.01)
        if is_malformed:
            client.writers[0].write(b"\0\r\n\r\n")
        else:
            client.writers[0].close()
        async with asyncio.timeout(5):
            while tasks:
                await asyncio.sleep(0.01)

    run(attack)
