"""Live traffic on the real server: 10,000 users, a teacher or database that is down, kill -9."""

from __future__ import annotations

import http.client
import itertools
import json
import math
import random
import signal
import socket
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import create_engine, text

from potstill.rundir import RunDirectory
from serve.experiment.assignment import choose
from tests.fixtures.postgresql import postgresql
from tests.fixtures.served import KEY, Server, run_of_gguf
from tests.fixtures.tiny_gguf import write_tiny_gguf
from tests.fixtures.waiting import eventually

NUM_USERS, NUM_CLIENTS, SALT = 10_000, 8, "a salt"
USERS = [f"user-{number}" for number in range(NUM_USERS)]
MODELS = ("student", "teacher")


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run whose model is so small that the server's own work is what takes time."""
    directory = tmp_path_factory.mktemp("experiment")
    write_tiny_gguf(directory / "tiny.gguf")
    return run_of_gguf(directory / "run", directory / "tiny.gguf")


@pytest.fixture
def serve(run_directory: RunDirectory, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Return a function that starts a server with an experiment; each storage is a test's own."""
    servers = []

    def start(student: float, teacher: float, **settings: object) -> Server:
        more = settings.pop("experiment", {})
        variants = {"student": {"weight": student}, "teacher": {"weight": teacher}}
        experiment = {"variants": variants, "salt": SALT, "shadow": {"share": 0}, **more}
        gguf = run_directory.stage_dir("gguf") / "student-Q4_1.gguf"
        server = Server(
            run_directory,
            tmp_path / f"log-{len(servers)}",
            models=["student-Q4_1"],
            **{
                "paths": {name: str(gguf) for name in MODELS},
                "experiments": {"assistant": experiment},
                "storage": {"url": f"sqlite:///{tmp_path / 'traffic.sqlite'}"},
                "max_queue": 1000,
                "context_tokens": 64,
                **settings,
            },
        )
        servers.append(server)
        return server

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.stop()


def post(connection: http.client.HTTPConnection, user: str) -> tuple[int, str | None, str]:
    body = {
        "model": "assistant",
        "messages": [{"role": "user", "content": "Hi"}],
        "user": user,
        "max_tokens": 1,
    }
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    response = connection.getresponse()
    content = json.loads(response.read())
    return response.status, response.headers.get("x-potstill-variant"), content.get("id", "")


def connect(server: Server) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=120)


def dealt(server: Server, users: Sequence[str]) -> dict[str, str]:
    """Send one request for each user; return the variants that answered."""

    def ask(some: Sequence[str]) -> dict[str, str]:
        connection = connect(server)
        found = {}
        for user in some:
            status, variant, _ = post(connection, user)
            assert status == 200
            assert variant is not None
            found[user] = variant
        return found

    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        parts = pool.map(ask, [users[start::NUM_CLIENTS] for start in range(NUM_CLIENTS)])
        return dict(itertools.chain.from_iterable(part.items() for part in parts))


def results(server: Server) -> dict:
    headers = {"Authorization": f"Bearer {KEY}"}
    response = httpx.get(f"{server.url}/experiments/assistant", headers=headers, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


def expected(users: list[str], student: float, teacher: float) -> dict[str, str]:
    weights = {"student": student, "teacher": teacher}
    return {user: choose(weights, SALT, "assistant", user=f"user\0{user}") for user in users}


@pytest.mark.parametrize("num_users", [1000, pytest.param(NUM_USERS, marks=pytest.mark.nightly)])
def test_a_ramp_moves_only_the_necessary_users(serve, num_users):
    users = USERS[:num_users]
    server = serve(1, 9)
    before = dealt(server, users)
    assert before == expected(users, 1, 9)
    counts = Counter(before.values())
    standard_error = math.sqrt(num_users * 0.1 * 0.9)
    assert counts["student"] == pytest.approx(num_users / 10, abs=4 * standard_error)
    view = results(server)
    assert [one["users"] for one in view["variants"]] == [counts[name] for name in MODELS]
    assert [one["exposures"] for one in view["variants"]] == [counts[name] for name in MODELS]
    assert not view["sample_ratio"]["is_mismatch"]
    server.stop()

    # A restart moves no user; a ramp moves the necessary number of users to the student.
    ramped = serve(3, 9)
    after = dealt(ramped, users)
    assert after == expected(users, 3, 9)
    moved = {user for user in users if before[user] != after[user]}
    assert {after[user] for user in moved} == {"student"}
    assert len(moved) == Counter(after.values())["student"] - counts["student"]
    # First assignments count, with the shares of that time.
    view = results(ramped)
    assert [one["users"] for one in view["variants"]] == [counts[name] for name in MODELS]
    assert sum(one["exposures"] for one in view["variants"]) == 2 * num_users
    assert not view["sample_ratio"]["is_mismatch"]


def test_an_unavailable_teacher_fails_shadows_but_no_client(serve):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        server = serve(
            1,
            0,
            upstreams={"teacher": {"base_url": f"http://127.0.0.1:{port}/v1"}},
            experiment={"shadow": {"queue": 5, "timeout_seconds": 1}},
        )
        answered = dealt(server, USERS[:200])
        assert set(answered.values()) == {"student"}
        view = results(server)
    shadow = view["shadow"]
    assert shadow["pairs"] == 0
    assert shadow["queue"] <= 5
    assert shadow["failed"] + shadow["dropped"] + shadow["queue"] >= 199
    assert view["state"] == "running"
    student = view["variants"][0]
    assert (student["exposures"], student["errors"]) == (200, 0)


@contextmanager
def clients(server: Server, may_fail: threading.Event) -> Iterator[list[str]]:
    """Let clients ask during the block; yields the ids of the answers that they get."""
    received: list[str] = []
    is_over = threading.Event()

    def ask(client: int) -> None:
        connection = connect(server)
        for count in itertools.count():
            try:
                status, _, answer_id = post(connection, f"{client}-{count}")
            except (OSError, http.client.HTTPException):
                assert may_fail.is_set()
                return
            if status == 200:
                received.append(answer_id)
            else:
                assert may_fail.is_set()
            if is_over.is_set():
                return

    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        asking = [pool.submit(ask, client) for client in range(NUM_CLIENTS)]
        try:
            yield received
        finally:
            is_over.set()
        for one in asking:
            one.result(60)


def answered_until(server: Server, number: signal.Signals, num_answers: int) -> list[str]:
    """Let clients ask until so many answers came, then end the server; return all their ids."""
    may_fail = threading.Event()
    with clients(server, may_fail) as received:
        assert eventually(lambda: len(received) >= num_answers)
        may_fail.set()
        server.process.send_signal(number)
        server.process.wait(60)
    return received


@pytest.mark.parametrize(
    ("number", "moments"),
    [
        (signal.SIGKILL, [300]),
        pytest.param(signal.SIGKILL, None, marks=pytest.mark.nightly),
        pytest.param(signal.SIGTERM, None, marks=pytest.mark.nightly),
    ],
)
def test_a_server_that_is_ended_loses_nothing_that_a_client_has(serve, tmp_path, number, moments):
    received: list[str] = []
    moments = moments or [random.randint(1, 300) for _ in range(10)]
    for num_answers in moments:
        received += answered_until(serve(1, 1), number, num_answers)
        with sqlite3.connect(tmp_path / "traffic.sqlite") as database:
            assert database.execute("pragma integrity_check").fetchone() == ("ok",)
            stored = {row[0] for row in database.execute("select id from answers")}
        assert set(received) <= stored
    # What is stored beyond it was in flight: one request a client at most.
    assert len(stored) <= len(received) + NUM_CLIENTS * len(moments)
    again = serve(1, 1)
    assert sum(one["exposures"] for one in results(again)["variants"]) == len(stored)


@pytest.mark.parametrize(
    ("number", "num_times"),
    [
        (signal.SIGKILL, 1),
        pytest.param(signal.SIGKILL, 10, marks=pytest.mark.nightly),
        pytest.param(signal.SIGINT, 10, marks=pytest.mark.nightly),  # its fast shutdown
    ],
)
def test_a_database_that_is_ended_and_started_again_loses_nothing_that_a_client_has(
    serve, number, num_times
):
    with postgresql() as database:
        server = serve(1, 1, storage={"url": database.url})
        with clients(server, threading.Event()) as received:
            for _ in range(num_times):
                time.sleep(random.uniform(0.5, 1))
                database.end(number)
                time.sleep(random.uniform(0, 3))
                database.start()
        server.stop()  # writes what waits
        engine = create_engine(database.url)
        with engine.connect() as connection:
            stored = {row[0] for row in connection.execute(text("select id from answers"))}
        engine.dispose()
    assert len(received) > NUM_CLIENTS * num_times
    assert {*received} == stored


def test_a_cascade_over_a_real_model_is_decided_by_its_own_confidence(serve):
    limits = {"bold": -100.0, "careful": -1e-6}
    server = serve(1, 1, cascades={
        name: {"least_mean_logprob": limit} for name, limit in limits.items()
    })  # fmt: skip
    for name, model in (("bold", "student"), ("careful", "teacher")):
        settings = {"model": name, "messages": [{"role": "user", "content": "Hi"}]}
        settings |= {"temperature": 0, "max_tokens": 4}
        whole = server.client.chat.completions.create(**settings)
        assert whole.model == model
        assert whole.choices[0].logprobs is None
        stream = list(server.client.chat.completions.create(**settings, stream=True))
        text = "".join(one.choices[0].delta.content or "" for one in stream if one.choices)
        assert text == whole.choices[0].message.content
        assert {one.model for one in stream} == {model}
    headers = {"Authorization": f"Bearer {KEY}"}
    views = httpx.get(f"{server.url}/cascades", headers=headers, timeout=60).json()["data"]
    assert [one["share_escalated"] for one in views] == [0.0, 1.0]
    assert [one["answers"] for one in views] == [2, 2]
    assert all(one["student_tokens"] > 0 for one in views)
    assert [one["teacher_tokens"] > 0 for one in views] == [False, True]
