"""A chat template at work in a process of its own, under limits of time and memory.

In: a template's source, then messages. Out: text, or a typed error. Whatever a template does, this
process is not held up for longer than the limit. Knows nothing of tokens.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import IO, Any

RENDER_SECONDS = 10.0
"""What one rendering may take; an honest one takes a millisecond."""


class RenderingError(Exception):
    """The template refuses what it was given, or broke a limit."""


class TemplateProcess:
    """Renders one template. May be called from any thread; renderings take turns.

    Args:
        source: The template.
        seconds: What one rendering may take.

    Raises:
        RenderingError: The template cannot be compiled.
    """

    def __init__(self, source: str, *, seconds: float = RENDER_SECONDS) -> None:
        self._source = source
        self._seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        with self._lock:
            self._start()

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        named_tokens: Mapping[str, str],
        variables: Mapping[str, Any],
    ) -> str:
        """Return what the template makes of the messages.

        Raises:
            RenderingError: The template refuses them, takes too long or too much memory.
        """
        given = {"messages": messages, "named_tokens": named_tokens, "variables": variables}
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
            return self._ask(given)

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _start(self) -> None:
        self._end()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "serve.chat.render_worker", str(self._seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PATH": os.defpath},
            # A terminal's interrupt is for the server, which then ends this process.
            start_new_session=True,
        )
        self._ask(self._source)

    def _ask(self, given: object) -> str:
        """Send a line, and wait for the one that answers it."""
        assert self._process is not None
        stdin, stdout = _pipes(self._process)
        try:
            stdin.write(json.dumps(given).encode() + b"\n")
            stdin.flush()
        except BrokenPipeError:
            pass  # what it ended with tells more
        line = stdout.readline()
        if not line:
            code = self._process.wait()
            self._end()
            reason = "took too long" if code == -signal.SIGALRM else "broke its process"
            raise RenderingError(f"the template {reason}")
        answer = json.loads(line)
        if "error" in answer:
            raise RenderingError(answer["error"])
        return str(answer["text"])

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in _pipes(process):
                pipe.close()

    def __del__(self) -> None:
        if getattr(self, "_process", None) is not None:
            self._end()


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout
