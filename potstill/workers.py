"""Functions that run in a child process, so that a crash or a leak stays there.

A service is a function, named `module:function`, that takes JSON values and returns a handler. The
child calls it once, then passes each message to the handler and sends back what it returns, in the
same order. Messages are bytes with a length before them (no pickle), on a socket of their own, so
that a library may print to stdout. The child always ends with its parent.

    with Worker("quantize.verification.inspection:service") as worker:
        answer = worker.ask_json({"path": …}, timeout_seconds=60)
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

from potstill.errors import PotstillError, error_from_dict

Handler = Callable[[bytes], bytes | None]
"""Answers a message; None sends nothing back. A PotstillError is raised again in the parent; any
other exception ends the child."""

START_SECONDS = 60.0
"""How long a service may take to load, on a machine that is busy."""
END_SECONDS = 5.0
"""How long the process of a closed socket may take to end by itself, which gives its exit code."""
LOG_BYTES = 1 << 16
"""How much of what a worker printed is read for an error."""
QUOTED_LINES = 3
PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "LANG", "TMPDIR")
"""Environment variables without keys."""
ANSWERED, FAILED = b"\0", b"\1"
"""First byte of what the child sends: content, or an error as JSON."""


class WorkerError(PotstillError):
    """A worker ended before it answered.

    Args:
        lines: The end of what it printed to stdout and stderr, without empty lines.
    """

    def __init__(
        self,
        what: str,
        *,
        where: object | None = None,
        expected: object | None = None,
        found: object | None = None,
        lines: Sequence[str] = (),
    ) -> None:
        super().__init__(what, where=where, expected=expected, found=found)
        self.lines = lines


class WorkerTimeoutError(WorkerError):
    """A worker took longer than it may, and was ended."""


class Worker:
    """A child process with a service: started by the first message, and again after it ended.

    `ask` and `ask_json` may be called from any thread; calls take turns. `send`, `poll` and
    `receive` are for one thread that does not wait for each answer.

    Args:
        service: `module:function`, imported in the child.
        arguments: JSON values for the function.
        growth_bytes: How much the child's address space may grow once the service is loaded (Linux
            only); None sets no limit.
        cpu_seconds: CPU time that one message may take; None sets no limit.
        environment: Environment variables of the child; None passes on this process's.
        start_seconds: How long loading the service may take.
    """

    def __init__(
        self,
        service: str,
        *arguments: object,
        growth_bytes: int | None = None,
        cpu_seconds: float | None = None,
        environment: Mapping[str, str] | None = None,
        start_seconds: float = START_SECONDS,
    ) -> None:
        self._service = service
        self._setup = {
            "service": service,
            "arguments": arguments,
            "growth_bytes": growth_bytes,
            "cpu_seconds": cpu_seconds,
        }
        self._environment = environment
        self._start_seconds = start_seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection
        self._log: IO[bytes]
        self.is_ready = False
        """Whether the service is loaded; until then its start is what `poll` waits for."""

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Process id of the child; None while there is none."""
        return None if self._process is None else self._process.pid

    def fileno(self) -> int:
        """Return the descriptor of the running child's socket, to wait for several at once."""
        return self._connection.fileno()

    def ask_json(
        self, request: Mapping[str, object], timeout_seconds: float | None = None
    ) -> dict[str, Any]:
        """Send a JSON object and return the one that answers it; see `ask`."""
        return dict(json.loads(self.ask(json.dumps(request).encode(), timeout_seconds)))

    def ask(self, message: bytes, timeout_seconds: float | None = None) -> bytes:
        """Send a message and wait for its answer.

        Args:
            timeout_seconds: How long the answer may take once the service is loaded.

        Raises:
            PotstillError: The service raised it; the child keeps running.
            WorkerTimeoutError: There was no answer in time; the child was ended.
            WorkerError: The child ended.
        """
        with self._lock:
            try:
                self.send(message)
                if not self.is_ready and not self._wait_until_ready(self._start_seconds):
                    raise self._timeout("to start", self._start_seconds)
                if not self.poll(timeout_seconds):
                    raise self._timeout("to answer", timeout_seconds)
                frame = self._receive_frame()
            except BaseException:
                self.close()
                raise
        return _content(frame)

    def send(self, message: bytes) -> None:
        """Send a message without waiting; a child that ended is noticed by `receive`."""
        if self._process is None:
            self._start()
        with suppress(OSError):
            self._connection.send_bytes(message)

    def poll(self, timeout_seconds: float | None = 0.0) -> bool:
        """Wait until `receive` has something to return or raise; return whether it has.

        Raises:
            PotstillError: The service could not be loaded.
            WorkerError: The child ended while loading it.
        """
        started = time.monotonic()
        if not self.is_ready and not self._wait_until_ready(timeout_seconds):
            return False
        if timeout_seconds is not None:
            timeout_seconds = max(0.0, timeout_seconds - (time.monotonic() - started))
        return self._connection.poll(timeout_seconds)

    def receive(self) -> bytes:
        """Return the next answer; raises as `ask` does, without a timeout."""
        return _content(self._receive_frame())

    def close(self) -> None:
        """End the child, whatever it is doing; the next message starts another."""
        process, self._process = self._process, None
        self.is_ready = False
        if process is not None:
            self._connection.close()
            self._log.close()
            process.kill()
            process.wait()

    def _start(self) -> None:
        self._connection, child = Pipe()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the process)
        environment = os.environ if self._environment is None else self._environment
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, str(child.fileno())],
            pass_fds=[child.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            # An interrupt typed at the terminal is for the parent, which then ends the child.
            start_new_session=True,
        )
        child.close()
        self._connection.send_bytes(json.dumps(self._setup).encode())

    def _wait_until_ready(self, timeout_seconds: float | None) -> bool:
        if self._connection.poll(timeout_seconds):
            try:
                _content(self._receive_frame())
            except PotstillError:
                self.close()
                raise
            self.is_ready = True
        return self.is_ready

    def _receive_frame(self) -> bytes:
        try:
            return self._connection.recv_bytes()
        except (EOFError, OSError):
            raise self._ended() from None

    def _ended(self) -> WorkerError:
        """Return the error for a child that has ended, and reap it."""
        assert self._process is not None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        code = self._process.poll()
        if code == -signal.SIGPROF:
            return self._timeout("of CPU time", self._setup["cpu_seconds"])
        ended = "no end" if code is None else _description(code)
        lines = self._lines()
        self.close()
        return WorkerError(
            "a worker process ended before it answered",
            where=self._service,
            found="; ".join([*lines[-QUOTED_LINES:], ended]),
            lines=lines,
        )

    def _timeout(self, doing: str, limit_seconds: object) -> WorkerTimeoutError:
        lines = self._lines()
        self.close()
        return WorkerTimeoutError(
            "a worker process took too long",
            where=self._service,
            expected=f"at most {limit_seconds} s {doing}",
            lines=lines,
        )

    def _lines(self) -> list[str]:
        start = max(0, self._log.seek(0, os.SEEK_END) - LOG_BYTES)
        self._log.seek(start)
        text = self._log.read().decode(errors="replace")
        return [line.strip() for line in text.splitlines() if line.strip()]


def environment_without_secrets() -> dict[str, str]:
    """Return the environment of a child that reads what others wrote: no keys are in it."""
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ}


def json_handler(function: Callable[[dict[str, Any]], Mapping[str, object]]) -> Handler:
    """Return a handler of JSON objects, for `Worker.ask_json`."""
    return lambda message: json.dumps(function(json.loads(message))).encode()


def _content(frame: bytes) -> bytes:
    if frame[:1] == FAILED:
        raise error_from_dict(json.loads(frame[1:]))
    return frame[1:]


def _description(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"


def main(descriptor: int) -> None:
    """Serve messages in the child until the parent closes the socket, or ends."""
    connection = Connection(descriptor)
    messages: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_read, args=(connection, messages), daemon=True).start()
    setup = json.loads(messages.get())
    try:
        module, _, function = setup["service"].partition(":")
        handler: Handler = getattr(import_module(module), function)(*setup["arguments"])
    except PotstillError as error:
        connection.send_bytes(_failure(error))
        return
    if setup["growth_bytes"] is not None:
        _limit_growth(setup["growth_bytes"])
    connection.send_bytes(ANSWERED)
    while True:
        message = messages.get()
        if setup["cpu_seconds"] is not None:
            _limit_cpu(setup["cpu_seconds"])
        try:
            answer = handler(message)
        except PotstillError as error:
            connection.send_bytes(_failure(error))
        else:
            if answer is not None:
                connection.send_bytes(ANSWERED + answer)


def _read(connection: Connection, messages: SimpleQueue[bytes]) -> None:
    """Queue messages; end the process with the parent, even while a library works."""
    try:
        while True:
            messages.put(connection.recv_bytes())
    finally:
        os._exit(1)


def _failure(error: PotstillError) -> bytes:
    return FAILED + json.dumps(error.to_dict()).encode()


def _limit_growth(num_bytes: int) -> None:
    if sys.platform == "linux":
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + num_bytes, now + num_bytes))


def _limit_cpu(seconds: float) -> None:
    """Let SIGPROF end this process when the next message has taken so much CPU time."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


if __name__ == "__main__":
    main(int(sys.argv[1]))
