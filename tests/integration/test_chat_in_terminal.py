"""`potstill chat` with real servers: what is typed, and what is shown."""

import fcntl
import io
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator

import pytest
from rich.console import Console

from potstill.errors import BackendError, BackendUnavailableError, ConfigError
from serve.terminal.server import Server as Models
from serve.terminal.session import Session
from tests.fixtures.served import KEY, Server, run_of_gguf

CHAT = [sys.executable, "-m", "potstill", "chat"]
MAX_TOKENS = 24
SETTINGS = {"context_tokens": 256, "threads": 1, "max_parallel": 4}


@pytest.fixture(scope="module")
def server(tiny_gguf, tmp_path_factory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("chat")
    run = run_of_gguf(directory / "run", tiny_gguf)
    server = Server(
        run,
        directory / "log",
        models=["student", "student-Q4_1"],
        storage={},
        sampling={"temperature": 0.0},
        **SETTINGS,
    )
    yield server
    server.stop()


class Chat:
    def __init__(self, server: Server, models: list[str]) -> None:
        self.console = Console(file=io.StringIO(), width=200)
        endpoint = Models(server.url, KEY, MAX_TOKENS)
        self.session = Session(endpoint, self.console, endpoint.models(), models)

    def says(self, line: str) -> str:
        start = self.console.file.tell()
        self.session.take(line)
        return self.console.file.getvalue()[start:]


@pytest.fixture
def chat(server) -> Chat:
    return Chat(server, ["student", "student-Q4_1"])


def test_all_chosen_models_answer_and_remember(chat, server):
    first = chat.says("Hello there")
    one, two = re.fullmatch(r"student: (.+)\nstudent-Q4_1: (.+)\n", first, re.DOTALL).groups()
    assert one.strip() == two.strip()  # one file under two names
    second = chat.says("Go on")
    whole = [
        {"role": "user", "content": "Hello there"},
        {"role": "assistant", "content": one},
        {"role": "user", "content": "Go on"},
    ]
    asked = server.client.chat.completions.create(
        model="student", messages=whole, max_tokens=MAX_TOKENS
    )
    assert second.startswith(f"student: {asked.choices[0].message.content}")
    chat.says("/new")
    assert chat.says("Hello there") == first


def test_instructions_begin_a_conversation(chat, server):
    chat.says("/system Be brief.")
    shown = chat.says("Hello")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    asked = server.client.chat.completions.create(
        model="student", messages=messages, max_tokens=MAX_TOKENS
    )
    assert shown.startswith(f"student: {asked.choices[0].message.content}")


def test_models_are_listed_and_chosen(chat):
    assert chat.says("/model").split() == ["*", "student", "*", "student-Q4_1"]
    assert chat.says("/model student-Q4_1").split() == ["student", "*", "student-Q4_1"]
    assert chat.says("Hello").startswith("student-Q4_1: ")
    with pytest.raises(ConfigError, match=r"no such model[\s\S]*student \| student-Q4_1"):
        chat.says("/model pupil")


def test_a_blind_vote_is_stored_once_and_says_who_it_was(chat):
    chat.says("/blind")
    shown = chat.says("Which is better?")
    assert re.match(r"A: .*\nB: ", shown, re.DOTALL)
    assert "student" not in shown
    said = r"Stored\. A was (\S+), B was (\S+)\. It counts for nothing: max_tokens was set\.\n"
    named = re.fullmatch(said, chat.says("/vote tie"))
    assert named is not None
    assert {*named.groups()} == {"student", "student-Q4_1"}
    with pytest.raises(ConfigError, match="no two hidden answers"):
        chat.says("/vote a")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/vote c", "no such vote"),
        ("/vote a", "no two hidden answers"),
        ("/bogus", "unknown command"),
    ],
)
def test_a_wrong_command_is_an_error(chat, line, message):
    with pytest.raises(ConfigError, match=message):
        chat.says(line)


def test_one_model_cannot_be_voted_on(server):
    with pytest.raises(ConfigError, match="between two models"):
        Chat(server, ["student"]).says("/blind")


def test_a_server_that_stores_nothing_takes_no_votes(tiny_gguf, tmp_path):
    run = run_of_gguf(tmp_path / "run", tiny_gguf)
    server = Server(run, tmp_path / "log", models=["student", "student-Q4_1"], **SETTINGS)
    try:
        chat = Chat(server, ["student", "student-Q4_1"])
        with pytest.raises(BackendError, match=r"stores no answers[\s\S]*serve\.storage"):
            chat.says("/blind")
        assert chat.says("Hello").startswith("student: ")
    finally:
        server.stop()


def test_a_refused_question_may_be_asked_again(chat):
    assert "context" in chat.says("long " * 400)
    assert "context" not in chat.says("short")


def test_a_wrong_key_and_an_absent_server_are_errors(server):
    with pytest.raises(BackendError, match="API key"):
        Models(server.url, "wrong").models()
    with pytest.raises(BackendUnavailableError, match="does not answer"):
        Models("http://127.0.0.1:9/v1", "none").models()


def test_a_pipe_gets_text_from_a_file_that_is_served_for_it(tiny_gguf):
    options = [f"--set=serve.{name}={value}" for name, value in SETTINGS.items()]
    lines = "Hello\n/bogus\n/quit\nnever asked\n"
    done = subprocess.run(
        [*CHAT, str(tiny_gguf), "--max-tokens=8", *options],
        input=lines,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("tiny: ")
    assert "unknown command" in done.stdout
    assert "never asked" not in done.stdout


def test_a_terminal_shows_both_and_ctrl_c_stops_an_answer(server):
    ours, theirs = pty.openpty()
    environment = {**os.environ, "POTSTILL_API_KEY": KEY, "COLUMNS": "120", "TERM": "xterm"}
    with subprocess.Popen(
        [*CHAT, server.root_url],
        stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    ) as process:  # fmt: skip
        os.close(theirs)
        screen = Screen(ours)
        screen.wait_for("> ")
        screen.write("Hello\r")
        shown = screen.wait_for(r"student.*student-Q4_1[\s\S]*tokens/s[\s\S]*> $")
        assert "Traceback" not in shown
        screen.write("Tell me a long story\r")
        screen.wait_for("…|╭")
        screen.write("\x03")
        assert "Traceback" not in screen.wait_for(r"> $")
        screen.write("\x04")
        assert process.wait(30) == 0


class Screen:
    """What a program writes to its terminal."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._text = ""

    def write(self, text: str) -> None:
        self._text = ""
        os.write(self._descriptor, text.encode())

    def wait_for(self, pattern: str, seconds: float = 60.0) -> str:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if select.select([self._descriptor], [], [], 0.1)[0]:
                self._text += os.read(self._descriptor, 65536).decode(errors="replace")
            plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self._text)
            if re.search(pattern, plain):
                return plain
        raise AssertionError(f"{pattern!r} is not in {self._text!r}")
