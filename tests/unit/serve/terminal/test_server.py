"""A server that sends what it should not."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from potstill.errors import BackendError
from serve.terminal import server as terminal
from serve.terminal.server import UNUSABLE, Answer, Server

HEAD = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}


class Hostile(BaseHTTPRequestHandler):
    models: Any = None
    delta: Any = None

    def do_GET(self) -> None:
        self._send("application/json", json.dumps(self.models))

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        event = HEAD | {"choices": [{"index": 0, "delta": self.delta}]}
        self._send("text/event-stream", f"data: {json.dumps(event)}\n\n" * 3 + "data: [DONE]\n\n")

    def _send(self, kind: str, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serving() -> Iterator[Callable[..., Server]]:
    """Return a function that serves models and the pieces of an answer."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Hostile) as listening:
        threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True).start()

        def serve(models: Any = None, delta: Any = None) -> Server:
            Hostile.models, Hostile.delta = models, delta
            return Server(f"http://127.0.0.1:{listening.server_port}/v1", "none")

        yield serve
        listening.shutdown()


@pytest.mark.parametrize("models", [[1, 2], {"data": [{"id": 5}]}, "x", None])
def test_models_that_are_none_are_an_error(serving, models):
    with pytest.raises(BackendError, match=UNUSABLE):
        serving(models).models()


@pytest.mark.parametrize(
    "delta",
    [
        {"content": [{"a": 1}]},
        {"reasoning": {"a": "b"}},
        {"tool_calls": ["x"]},
        {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": 5}}]},
        {"content": "x" * 500},
    ],
    ids=lambda delta: str(delta)[:30],
)
def test_an_answer_that_is_none_or_too_long_is_an_error(serving, delta, monkeypatch):
    monkeypatch.setattr(terminal, "MAX_ANSWER_CHARACTERS", 1000)
    answer = Answer("m")
    serving(delta=delta).ask("m", [], answer, threading.Event())
    assert (answer.error, answer.is_done) == (UNUSABLE, True)
