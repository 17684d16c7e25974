"""The whole server in a thread of this process, where atheris sees what code a request reaches."""

from __future__ import annotations

import http.client
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

from tests.fuzz.harness import INPUT_SECONDS

CONTEXT_TOKENS = 96
"""Answers end there: one takes some milliseconds."""
START_SECONDS = 120
MODELS = ("tiny", "other", "experiment", "cascade")


def started_server() -> int:
    """Start `potstill serve` over a tiny model, with an experiment, a cascade, storage, a record.

    Returns:
        Its port, once it is ready.
    """
    from potstill.processes import free_port
    from serve import stage
    from serve.config import ServeConfig
    from tests.fixtures.tiny_gguf import write_tiny_gguf

    directory, port = Path(tempfile.mkdtemp()), free_port()
    path = directory / "tiny.gguf"
    write_tiny_gguf(path)
    variants = {
        "student": {"model": "tiny", "weight": 1},
        "teacher": {"model": "other", "weight": 1},
    }
    config = ServeConfig.model_validate(
        {
            "port": port,
            "models": ["tiny"],
            "paths": {"other": path},
            "context_tokens": CONTEXT_TOKENS,
            "threads": 1,
            "max_parallel": 4,
            "fallback_model": "tiny",
            "record_path": directory / "record.jsonl",
            "experiments": {"experiment": {"variants": variants}},
            "cascades": {"cascade": {"student": "tiny", "teacher": "other"}},
            "storage": {"url": f"sqlite:///{directory / 'traffic.sqlite'}", "max_answers": 1000},
        }
    )
    threading.Thread(target=stage.run_files, args=(config, [path]), daemon=True).start()
    deadline = time.monotonic() + START_SECONDS
    while not is_ready(port):
        assert time.monotonic() < deadline, "the server does not start"
        time.sleep(0.1)
    return port


def is_ready(port: int) -> bool:
    """Return whether the server accepts requests."""
    with suppress(OSError):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=INPUT_SECONDS)
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    return False
