"""Child processes that never outlive their parent.

Programs that exchange no messages with this one are run by `child_process`; functions that answer
messages by `potstill.workers`. On systems other than Linux a program continues when its parent is
killed.
"""

from __future__ import annotations

import ctypes
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any

PR_SET_PDEATHSIG = 1
"""Option of prctl(2) that names the signal a process gets when the thread that started it ends."""
Output = IO[Any] | int
"""A file, or a constant of `subprocess`; None is this process's own."""


@contextmanager
def child_process(
    command: Sequence[str],
    *,
    stdin: int | None = None,
    stdout: Output | None = None,
    stderr: Output | None = None,
    env: Mapping[str, str] | None = None,
    stop_seconds: float = 0.0,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program that ends with the block at the latest.

    Use it in a thread that lives as long as the program: Linux ends the program with its thread.

    Args:
        stop_seconds: How long the program may take to stop when it is asked to at the end of the
            block; then it is killed.
    """
    process = subprocess.Popen(
        command, stdin=stdin, stdout=stdout, stderr=stderr, env=env, preexec_fn=end_with_parent()
    )
    try:
        yield process
    finally:
        if stop_seconds:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(stop_seconds)
        process.kill()
        process.wait()


def end_with_parent(number: signal.Signals = signal.SIGKILL) -> Callable[[], None] | None:
    """Return a `preexec_fn` for subprocess; libc is loaded here, before the fork.

    Args:
        number: The signal that the program gets; SIGTERM lets one with children end them first.
    """
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(PR_SET_PDEATHSIG, number)


def free_port() -> int:
    """Return a TCP port of the loopback address that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
