"""Services of the module below, in real child processes."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from potstill.errors import ArtifactError, ConfigError, PotstillError
from potstill.workers import Worker, WorkerError, WorkerTimeoutError
from tests.fixtures.waiting import eventually, is_running

pytestmark = pytest.mark.slow

SERVICES = """
import os, signal, sys, time
from potstill.errors import ArtifactError, ConfigError
from potstill.workers import json_handler


def echo():
    return lambda message: message


def silent_unless_asked():
    return lambda message: None if message == b"note" else message


def counter(start, step):
    state = {"count": start}

    def count(request):
        state["count"] += step * request["times"]
        return state

    return json_handler(count)


def acts():
    def act(message):
        if message == b"pid":
            return str(os.getpid()).encode()
        if message == b"refuse":
            raise ConfigError("it does not fit", where=7, expected=1, found=2.5, hint="mend it")
        if message == b"crash":
            print("the cause")
            print("", file=sys.stderr)
            raise RuntimeError("and its consequence")
        if message == b"abort":
            os.abort()
        if message == b"sleep":
            time.sleep(60)
        if message == b"spin":
            while True:
                pass
        if message == b"grow":
            bytearray(1 << 30)
        if message == b"environment":
            return repr(sorted(os.environ)).encode()
        return message

    return act


def broken():
    raise ArtifactError("the file is damaged", where="file")


def missing_library():
    import a_library_that_is_not_installed


def slow():
    time.sleep(60)
"""


@pytest.fixture
def open_worker(tmp_path, monkeypatch):
    (tmp_path / "services.py").write_text(SERVICES)
    monkeypatch.syspath_prepend(tmp_path)
    workers = []

    def open_worker(name, *arguments, **options):
        workers.append(Worker(f"services:{name}", *arguments, **options))
        return workers[-1]

    yield open_worker
    for worker in workers:
        worker.close()


def test_any_bytes_come_back_in_order(open_worker):
    worker = open_worker("echo")
    messages = [b"", b"\0\1\n", b"text", bytes(range(256)) * 4096]
    assert [worker.ask(message) for message in messages] == messages


def test_a_service_keeps_its_state_between_json_messages(open_worker):
    worker = open_worker("counter", 10, 2)
    assert worker.ask_json({"times": 3}) == {"count": 16}
    assert worker.ask_json({"times": 1}, timeout_seconds=30) == {"count": 18}
    worker.close()
    assert worker.ask_json({"times": 1}) == {"count": 12}


def test_messages_can_be_sent_ahead_of_their_answers(open_worker):
    worker = open_worker("silent_unless_asked")
    for message in (b"1", b"note", b"2"):
        worker.send(message)
    assert not worker.is_ready
    assert worker.poll(30)
    assert worker.is_ready
    assert [worker.receive(), worker.receive()] == [b"1", b"2"]
    assert not worker.poll()


def test_an_error_of_a_service_is_raised_again_and_the_service_goes_on(open_worker):
    worker = open_worker("acts")
    pid = worker.ask(b"pid")
    with pytest.raises(ConfigError) as caught:
        worker.ask(b"refuse")
    expected = ConfigError("it does not fit", where=7, expected=1, found=2.5, hint="mend it")
    assert str(caught.value) == str(expected)
    assert worker.ask(b"pid") == pid


@pytest.mark.parametrize(
    ("message", "options", "kind", "found"),
    [
        (b"crash", {}, WorkerError, "RuntimeError: and its consequence; exit code 1"),
        (b"abort", {}, WorkerError, "ended by SIGABRT"),
        (b"grow", {"growth_bytes": 1 << 28}, WorkerError, "MemoryError; exit code 1"),
        (b"spin", {"cpu_seconds": 0.5}, WorkerTimeoutError, "None"),
    ],
)
def test_a_worker_that_ends_is_a_typed_error_and_the_next_one_answers(
    open_worker, message, options, kind, found
):
    worker = open_worker("acts", **options)
    first = worker.ask(b"pid")
    with pytest.raises(WorkerError) as caught:
        worker.ask(message)
    assert type(caught.value) is kind
    assert caught.value.where == "services:acts"
    assert str(caught.value.found).endswith(found)
    assert worker.pid is None
    assert worker.ask(b"pid") != first


def test_what_a_worker_printed_is_in_its_error(open_worker):
    with pytest.raises(WorkerError) as caught:
        open_worker("acts").ask(b"crash")
    assert caught.value.lines[0] == "the cause"
    assert "" not in caught.value.lines


@pytest.mark.parametrize("message", [b"sleep", b"spin"])
def test_an_answer_that_takes_too_long_ends_the_worker(open_worker, message):
    worker = open_worker("acts")
    pid = int(worker.ask(b"pid"))
    started = time.monotonic()
    with pytest.raises(WorkerTimeoutError, match=r"at most 0\.2 s to answer"):
        worker.ask(message, timeout_seconds=0.2)
    assert time.monotonic() - started < 20
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert worker.ask(b"still", timeout_seconds=30) == b"still"


@pytest.mark.parametrize(
    ("service", "options", "kind", "message"),
    [
        ("broken", {}, ArtifactError, "the file is damaged"),
        ("missing_library", {}, WorkerError, "a_library_that_is_not_installed"),
        ("absent", {}, WorkerError, "AttributeError"),
        ("slow", {"start_seconds": 0.2}, WorkerTimeoutError, r"at most 0\.2 s to start"),
    ],
)
def test_a_service_that_cannot_be_loaded_is_a_typed_error(
    open_worker, service, options, kind, message
):
    worker = open_worker(service, **options)
    for _ in range(2):
        with pytest.raises(PotstillError, match=message) as caught:
            worker.ask(b"")
        assert type(caught.value) is kind
        assert worker.pid is None


def test_cpu_time_is_counted_by_message(open_worker):
    worker = open_worker("acts", cpu_seconds=5)
    pid = worker.ask(b"pid")
    assert {worker.ask(b"pid") for _ in range(200)} == {pid}


def test_a_worker_gets_no_more_of_the_environment_than_it_is_given(open_worker, monkeypatch):
    monkeypatch.setenv("A_SECRET", "x")
    assert b"A_SECRET" in open_worker("acts").ask(b"environment")
    alone = open_worker("acts", environment={"LANG": "C"}).ask(b"environment")
    openmp = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}
    assert set(eval(alone)) <= {"LANG", "LC_CTYPE", "PYTHONPATH"} | openmp


def test_threads_take_turns(open_worker):
    worker = open_worker("echo")
    answers = {}

    def ask(name):
        answers[name] = [worker.ask(f"{name} {i}".encode()) for i in range(50)]

    threads = [threading.Thread(target=ask, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {name: [f"{name} {i}".encode() for i in range(50)] for name in "abc"}


PARENT = """
import sys, time
from potstill.workers import Worker
worker = Worker("services:acts")
print(worker.ask(b"pid").decode(), flush=True)
worker.send(sys.argv[1].encode())
time.sleep(60)
"""


@pytest.mark.parametrize("message", ["sleep", "spin"])
def test_a_worker_ends_when_its_parent_is_killed(open_worker, tmp_path, message):
    open_worker("acts")  # writes the module
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, message], stdout=subprocess.PIPE, text=True, env=environment
    )
    with parent:
        pid = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    assert eventually(lambda: not is_running(pid))
