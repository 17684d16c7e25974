"""Starts a chat: finds the server or runs one, and reads lines from the terminal or a pipe."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from potstill.api_keys import NO_KEY, read_api_key, served_key_variable
from potstill.endpoint import HOST, running_endpoint
from potstill.errors import ConfigError
from potstill.files import HINTS
from potstill.processes import free_port
from potstill.terminal import printable
from serve.terminal.server import Server
from serve.terminal.session import PROMPT, SIDES, Session

READY_SECONDS = 600.0


def chat_with(
    what: str,
    models: list[str],
    system: str | None,
    max_tokens: int | None,
    options: Sequence[str],
) -> None:
    """Chat until the input ends.

    Args:
        what: A server's URL, or a run or GGUF files as for `potstill serve`.
        models: Who answers; empty for the server's first two.
        max_tokens: The longest answer; None leaves it to the server.
        options: Those of `potstill serve`, for a server that is started.

    Raises:
        BackendUnavailableError: The server does not answer, or does not start.
        ConfigError: The server has no such model, or options cannot be used.
    """
    console = Console()
    with _server(what, max_tokens, options) as server:
        session = Session(server, console, server.models(), system=system)
        session.use(models or session.known[: len(SIDES)])
        if console.is_terminal:
            console.print(
                printable(
                    f"{' and '.join(session.models)} answer; /help lists commands, /quit ends."
                ),
                markup=False, highlight=False,
            )  # fmt: skip
        session.run(_read if sys.stdin.isatty() else _read_pipe)


@contextmanager
def _server(what: str, max_tokens: int | None, options: Sequence[str]) -> Iterator[Server]:
    if what.startswith(("http://", "https://")):
        if options:
            raise ConfigError(
                "a server that is running takes no settings",
                where=what,
                found=" ".join(options),
            )
        base_url = what.rstrip("/")
        base_url = base_url if base_url.endswith("/v1") else f"{base_url}/v1"
        yield Server(base_url, read_api_key(served_key_variable()), max_tokens)
        return
    if not Path(what).exists():
        raise ConfigError(
            "there is nothing to chat with",
            where=what,
            expected="a URL with http:// or https://, a run or a GGUF file",
            hint=HINTS[FileNotFoundError],
        )
    port = free_port()
    # Nobody else uses this server.
    settings = {"host": HOST, "port": port, "keys_path": '""', "playground": "false"}
    own = [f"--set=serve.{name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "potstill", "serve", what, *options, *own]
    with (
        tempfile.TemporaryDirectory(prefix="potstill-") as directory,
        running_endpoint(command, port, Path(directory) / "log", READY_SECONDS) as base_url,
    ):
        yield Server(base_url, NO_KEY, max_tokens)


def _read() -> str:
    import readline  # noqa: F401  (arrow keys and history at the prompt)

    return input(PROMPT)


def _read_pipe() -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line
