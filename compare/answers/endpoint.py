"""A server process on loopback, for the duration of a `with` block.

In: the command that starts it. Out: its base URL once `/readyz` answers 200. The process ends with
the block.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from compare.answers.serving import ModelFiles, OpenEndpoint
from potstill.api_keys import API_KEY_VARIABLE
from potstill.errors import BackendUnavailableError
from potstill.files import disk_errors
from potstill.processes import child_process, free_port
from potstill.progress import announced

HOST = "127.0.0.1"
POLL_SECONDS = 0.2
STOP_SECONDS = 10.0
NUM_LOG_LINES = 12


def serve_command(
    run_dir: Path, models: ModelFiles, port: int, context_tokens: int, max_parallel: int = 1
) -> list[str]:
    """Return the command that serves model files of a run, and others by their paths.

    Args:
        max_parallel: Requests decoded together; one where speed for one user is measured.
    """
    paths = [(name, str(path)) for name, path in models.items() if path is not None]
    settings = {
        "host": HOST,
        "port": port,
        # These files only, whatever the run's configuration serves to users.
        **dict.fromkeys(("upstreams", "cascades", "experiments"), "{}"),
        # Requests have their own system messages, tools and formats.
        "task": "false",
        "models": json.dumps([name for name, path in models.items() if path is None]),
        "paths": "{" + ", ".join(f"{json.dumps(n)} = {json.dumps(p)}" for n, p in paths) + "}",
        "context_tokens": context_tokens,
        "max_parallel": max_parallel,
        # The prompts are held out: they must not be recorded, for training or otherwise.
        "record_path": '""',
        "storage": '""',
    }
    options = [f"--set=serve.{key}={value}" for key, value in settings.items()]
    return [sys.executable, "-m", "potstill", "serve", str(run_dir), *options]


def serving_files(run_dir: Path, ready_timeout_seconds: float) -> OpenEndpoint:
    """Return the way to serve a run's files: `potstill serve`, on a port that is free."""

    def open_endpoint(
        models: ModelFiles, context_tokens: int, max_parallel: int, log_path: Path
    ) -> AbstractContextManager[str]:
        port = free_port()
        command = serve_command(run_dir, models, port, context_tokens, max_parallel)
        return running_endpoint(command, port, log_path, ready_timeout_seconds)

    return open_endpoint


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
                hint="a large model may need a higher compare.ready_timeout_seconds; the log ends\n"
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
