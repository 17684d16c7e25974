"""Two real servers behind a real nginx, with the configuration that deploy/ gives."""

import asyncio
import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from benchmarks.serving._load import Load, load
from benchmarks.serving._servers import MODEL, Server, Setting, embedded_gguf, potstill, running
from potstill.processes import free_port
from tests.fixtures.lanes import require
from tests.fixtures.waiting import eventually

SITE = Path(__file__).parents[2] / "deploy" / "nginx.conf"
MAIN = "daemon off; pid {directory}/pid; error_log stderr; events {{}} http {{ include {site}; }}"
KEY = "a-secret-key"
NUM_STREAMS, NUM_TOKENS = 12, 32
TOPICS = ("rain", "bread", "the sea", "bees", "winter", "trains", "maps", "coffee")
BODIES = [
    {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"Write a story about {topic}."}],
        "temperature": 0.0,
        "max_tokens": NUM_TOKENS,
    }
    for topic in TOPICS * 3
]


class Cluster:
    """nginx and the servers behind it, each of which can be started again on its port."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self._stack = stack
        self._directory = directory
        self._setting = Setting(
            embedded_gguf(), directory, num_parallel=4, context_tokens=256, threads=1
        )
        self._ports = [free_port(), free_port()]
        self.servers = [self._server(number) for number in range(2)]
        port = free_port()
        site = SITE.read_text()
        for theirs, ours in ((8000, port), (8001, self._ports[0]), (8002, self._ports[1])):
            assert f"127.0.0.1:{theirs}" in site
            site = site.replace(f"127.0.0.1:{theirs}", f"127.0.0.1:{ours}")
        (directory / "site.conf").write_text(site)
        main = MAIN.format(directory=directory, site=directory / "site.conf")
        (directory / "nginx.conf").write_text(main)
        config_path = directory / "nginx.conf"
        self._command = [require("nginx"), "-p", str(directory), "-c", str(config_path)]
        self.url = f"http://127.0.0.1:{port}"
        self.start_nginx()
        stack.callback(self.end_nginx)

    def _server(self, number: int) -> Server:
        port = self._ports[number]
        log_path = self._directory / f"{port}.log"
        command = potstill(self._setting, port)
        return self._stack.enter_context(running("replica", command, port, log_path, key=KEY))

    def start_again(self, number: int) -> None:
        self.servers[number] = self._server(number)

    def load(self) -> Load:
        return asyncio.run(load(f"{self.url}/v1", BODIES, NUM_STREAMS, KEY))

    def load_while(self, end: Callable[[], object]) -> Load:
        """Send all requests, and end something when a server works on some."""

        async def both() -> Load:
            asking = asyncio.create_task(load(f"{self.url}/v1", BODIES, NUM_STREAMS, KEY))
            while not self.num_active(1):
                await asyncio.sleep(0.05)
            await asyncio.sleep(random.uniform(0, 0.5))
            end()
            return await asking

        return asyncio.run(both())

    def num_active(self, number: int) -> int:
        return int(self._metric(number, "potstill_requests_active{"))

    def num_answered(self, number: int) -> int:
        return int(self._metric(number, "potstill_http_requests_total{", "chat/completions"))

    def _metric(self, number: int, *parts: str) -> float:
        url = f"http://127.0.0.1:{self._ports[number]}/metrics"
        text = httpx.get(url, headers={"Authorization": f"Bearer {KEY}"}).text
        lines = [line for line in text.splitlines() if all(part in line for part in parts)]
        return sum(float(line.split()[-1]) for line in lines)

    def start_nginx(self) -> None:
        self._nginx = subprocess.Popen(self._command, start_new_session=True)
        assert eventually(self._nginx_answers)

    def end_nginx(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End nginx with its workers."""
        os.killpg(self._nginx.pid, number)
        self._nginx.wait(10)

    def _nginx_answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz").status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    with ExitStack() as stack:
        yield Cluster(stack, tmp_path_factory.mktemp("cluster"))


@pytest.fixture(scope="module")
def expected(cluster) -> list[str]:
    """The answers of a single server."""
    done = asyncio.run(load(cluster.servers[0].base_url, BODIES[: len(TOPICS)], 1, KEY))
    assert done.num_failed == 0
    return [answer.text for answer in done.answers] * 3


def test_both_answer_and_say_the_same(cluster, expected):
    before = [cluster.num_answered(number) for number in range(2)]
    done = cluster.load()
    assert done.num_failed == 0
    assert [answer.text for answer in done.answers] == expected
    answered = [cluster.num_answered(number) - before[number] for number in range(2)]
    assert sum(answered) == len(BODIES)
    assert min(answered) >= len(BODIES) // 4
    assert all(answer.num_pieces > 1 for answer in done.answers)  # nginx keeps nothing back


def test_the_door_is_that_of_the_servers(cluster):
    assert httpx.get(f"{cluster.url}/v1/models").status_code == 401
    assert httpx.get(f"{cluster.url}/metrics").status_code == 404
    large = httpx.post(f"{cluster.url}/v1/chat/completions", content=b"x" * (5 << 20))
    assert large.status_code == 413


def test_a_server_is_taken_away_and_brought_back_without_a_failed_request(cluster, expected):
    server = cluster.servers[1].process
    done = cluster.load_while(server.terminate)
    assert server.wait(60) == 0
    assert [answer.failure for answer in done.answers] == [None] * len(BODIES)
    assert [answer.text for answer in done.answers] == expected
    cluster.start_again(1)


def test_a_server_that_is_killed_loses_only_what_it_was_answering(cluster, expected):
    server = cluster.servers[1].process
    done = cluster.load_while(server.kill)
    server.wait(10)
    assert 1 <= done.num_failed <= NUM_STREAMS
    assert_whole_ones_are_right(done, expected)
    assert cluster.load().num_failed == 0
    cluster.start_again(1)


@pytest.mark.parametrize(
    ("number", "num_times"),
    [
        (signal.SIGKILL, 1),
        pytest.param(signal.SIGKILL, 10, marks=pytest.mark.nightly),
        pytest.param(signal.SIGTERM, 10, marks=pytest.mark.nightly),
    ],
)
def test_what_nginx_breaks_off_frees_its_place(cluster, expected, number, num_times):
    for _ in range(num_times):
        done = cluster.load_while(lambda: cluster.end_nginx(number))
        assert done.num_failed >= 1
        assert_whole_ones_are_right(done, expected)
        assert eventually(lambda: not any(map(cluster.num_active, range(2))))
        cluster.start_nginx()
    done = cluster.load()
    assert [answer.text for answer in done.answers] == expected


def assert_whole_ones_are_right(done: Load, expected: list[str]) -> None:
    pairs = zip(done.answers, expected, strict=True)
    assert all(answer.text == text for answer, text in pairs if not answer.failure)
