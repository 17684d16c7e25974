"""A server process on loopback, for the duration of a `with` block.

In: the command that starts it. Out: its base URL once `/readyz` answers 200. The process ends with
the block.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from potstill.api_keys import API_KEY_VARIABLE
from potstill.errors import BackendUnavailableError
from potstill.files import disk_errors
from potstill.processes import child_process
from potstill.progress import announced

HOST = "127.0.0.1"
POLL_SECONDS = 0.2
STOP_SECONDS = 10.0
NUM_LOG_LINES = 12


@contextmanager
def running_endpoint(
    command: Sequence[str], port: int, log_path: Path, ready_timeout_seconds: float
) -> Iterator[str]:
    """Start a server, yield its base URL when it is ready, stop it at the end.

    On Linux the server also ends when this process is killed.

    Raises:
        BackendUnavailableError: It ended, or was not ready in time.
    """
    # The key is for the users of `potstill serve`; only this process uses this server.
    environment = {name: value for name, value in os.environ.items() if name != API_KEY_VARIABLE}
    with ExitStack() as stack:
        with disk_errors("starting the endpoint", log_path):
            log = stack.enter_context(log_path.open("wb"))
            process = stack.enter_context(
                child_process(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    stop_seconds=STOP_SECONDS,
                )
            )
        with announced("loading the models into the endpoint"):
            _wait_until_ready(process, port, log_path, ready_timeout_seconds)
        yield f"http://{HOST}:{port}/v1"


def _wait_until_ready(
    process: subprocess.Popen[bytes], port: int, log_path: Path, timeout_seconds: float
) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not _is_ready(port):
        ended = process.poll()
        if ended is not None or time.monotonic() > deadline:
            raise BackendUnavailableError(
                "the endpoint did not become ready",
                where=" ".join(process.args) if isinstance(process.args, list) else process.args,
                expected=f"200 from http://{HOST}:{port}/readyz in {timeout_seconds:g} s",
                found=f"exit code {ended}" if ended is not None else "no such answer",
                hint="a large model may take longer (compare.ready_timeout_seconds); the log ends\n"
                f"{_last_lines(log_path)}",
            )
        time.sleep(POLL_SECONDS)


def _is_ready(port: int) -> bool:
    connection = HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _last_lines(log_path: Path) -> str:
    lines = log_path.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(f"    {line}" for line in lines[-NUM_LOG_LINES:]) or "    (the log is empty)"
