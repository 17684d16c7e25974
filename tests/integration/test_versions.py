"""A real server while its student's version changes: no request is lost, no kill changes it."""

import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict

import pytest

from potstill.versions import add_version, read_versions
from tests.fixtures.served import Server, next_version, run_of_gguf
from tests.fixtures.tiny_gguf import write_tiny_gguf
from tests.fixtures.waiting import eventually

NUM_CLIENTS, NUM_TOKENS = 4, 60
KILLED = """
import os, signal, sys
from pathlib import Path
from potstill import files, versions
from potstill.rundir import RunDirectory
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[3] == "while it is listed":
    files.sync_path = die
versions.add_version(RunDirectory(Path(sys.argv[1])), RunDirectory(Path(sys.argv[2])))
if sys.argv[3] == "before it is served":
    die()
files.sync_path = die
versions.serve_version(RunDirectory(Path(sys.argv[1])), 2, "it passed")
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("files")
    found = [directory / f"{number}.gguf" for number in (1, 2)]
    for seed, path in enumerate(found):
        write_tiny_gguf(path, seed=seed)
    return found


@pytest.fixture
def run(tmp_path, files):
    return run_of_gguf(tmp_path / "mine", files[0])


@pytest.fixture
def second(run, files):
    return next_version(run.root.with_name("mine-v2"), files[1], run)


@pytest.fixture
def start(run, tmp_path):
    """Start servers of the run, which end with the test."""
    started = []

    def start():
        log_path = tmp_path / f"log{len(started)}"
        settings = {"models": ["student", "student-Q4_1"], "context_tokens": 256}
        started.append(Server(run, log_path, key=None, max_parallel=8, **settings))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.stop()


def potstill(*arguments):
    command = [sys.executable, "-m", "potstill", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def version_of(server):
    student, same = (getattr(one, "version", None) for one in server.client.models.list().data)
    assert student == same
    return student


def asked(number, **more):
    messages = [{"role": "user", "content": f"What is number {number % 3}?"}]
    body = {"model": "student", "messages": messages, "temperature": 0, "max_tokens": NUM_TOKENS}
    return body | {"extra_body": {"ignore_eos": True}} | more


class Clients:
    """Clients that ask without a pause, half of them for streams, until they are to end."""

    def __init__(self, server):
        self.server = server
        self.failures, self.num_answers = [], 0
        self.texts = defaultdict(lambda: defaultdict(set))
        """Answers by question and by the model's fingerprint."""
        self._lock = threading.Lock()
        self._ends = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(one,)) for one in range(NUM_CLIENTS)
        ]
        for thread in self._threads:
            thread.start()

    def end(self):
        self._ends.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number):
        while not self._ends.is_set():
            try:
                found = self._streamed(number) if number % 2 else self._whole(number)
            except Exception as error:
                self.failures.append(repr(error))
                return
            with self._lock:
                self.num_answers += 1
                text, fingerprints, num_tokens = found
                assert num_tokens == NUM_TOKENS
                (fingerprint,) = fingerprints
                self.texts[number % 3][fingerprint].add(text)

    def _whole(self, number):
        found = self.server.client.chat.completions.create(**asked(number))
        text = found.choices[0].message.content
        return text, {found.system_fingerprint}, found.usage.completion_tokens

    def _streamed(self, number):
        options = {"stream": True, "stream_options": {"include_usage": True}}
        text, fingerprints, num_tokens = "", set(), 0
        for chunk in self.server.client.chat.completions.create(**asked(number, **options)):
            fingerprints.add(chunk.system_fingerprint)
            num_tokens = chunk.usage.completion_tokens if chunk.usage else num_tokens
            text += chunk.choices[0].delta.content or "" if chunk.choices else ""
        return text, fingerprints, num_tokens


def test_no_request_is_lost_while_the_version_changes_and_is_rolled_back(run, second, start):
    add_version(run, second)
    server = start()
    clients = Clients(server)
    try:
        assert eventually(lambda: clients.num_answers > 2 * NUM_CLIENTS)
        before = server.client.chat.completions.create(**asked(0))
        for _ in range(2):
            shown = potstill("versions", run.root, "--serve", 2)
            assert shown.returncode == 0, shown.stderr
            assert eventually(lambda: version_of(server) == 2)
            after = server.client.chat.completions.create(**asked(0))
            assert after.system_fingerprint != before.system_fingerprint
            assert after.choices[0].message.content != before.choices[0].message.content
            back = potstill("update", run.root, "--rollback")
            assert back.returncode == 0, back.stderr
            assert "version 1 is served" in back.stdout
            assert eventually(lambda: version_of(server) == 1)
            again = server.client.chat.completions.create(**asked(0))
            assert again.choices[0].message.content == before.choices[0].message.content
            assert again.system_fingerprint == before.system_fingerprint
        assert server.process.poll() is None
    finally:
        clients.end()
    assert clients.failures == []
    for by_fingerprint in clients.texts.values():
        assert len(by_fingerprint) <= 2
        assert all(len(texts) == 1 for texts in by_fingerprint.values()), "each is one file's"
    assert {len(one) for one in clients.texts.values()} == {2}, "both files have answered each"
    log = server.log_path.read_text()
    assert log.count("version 2 is served now") == log.count("version 1 is served now") == 2
    assert "500" not in log
    assert server.stop()[0] == 0


def test_models_that_were_replaced_give_their_memory_back(run, second, start):
    add_version(run, second)
    server = start()

    server.client.chat.completions.create(**asked(0))
    num_children = len(children(server.process.pid))
    for number in (2, 1, 2):
        potstill("versions", run.root, "--serve", number)
        assert eventually(lambda number=number: version_of(server) == number)
        server.client.chat.completions.create(**asked(0))
    assert eventually(lambda: len(children(server.process.pid)) == num_children)


def children(pid):
    found = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid="], capture_output=True, text=True)
    return found.stdout.split()


@pytest.mark.parametrize(
    "when", ["while it is listed", "before it is served", "while it is served"]
)
def test_a_kill_between_the_steps_leaves_the_version_that_is_served(run, second, start, when):
    server = start()
    first = server.client.chat.completions.create(**asked(0))
    command = [sys.executable, "-c", KILLED, str(run.root), str(second.root), when]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert read_versions(run).current.number == 1
    time.sleep(2.5)  # The server has looked at the file by then.
    again = server.client.chat.completions.create(**asked(0))
    assert again.system_fingerprint == first.system_fingerprint
    server.process.kill()
    server.process.wait()
    restarted = start()
    assert (
        restarted.client.chat.completions.create(**asked(0)).system_fingerprint
        == first.system_fingerprint
    )
    add_version(run, second)
    assert potstill("versions", run.root, "--serve", 2).returncode == 0
    assert eventually(lambda: version_of(restarted) == 2)


def test_a_killed_server_comes_back_with_the_version_that_is_served(run, second, start):
    add_version(run, second)
    server = start()
    potstill("versions", run.root, "--serve", 2)
    server.process.kill()  # While it loads the version, or before or after.
    server.process.wait()
    restarted = start()
    assert version_of(restarted) == 2
    assert "mine-v2" in potstill("versions", run.root).stdout
