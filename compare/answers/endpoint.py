"""The server that a comparison asks: `potstill serve` with model files of the run.

In: a run and its files. Out: the command, and the way to run it for the duration of a `with` block.
"""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager
from pathlib import Path

from compare.answers.serving import ModelFiles, OpenEndpoint
from potstill.endpoint import HOST, running_endpoint
from potstill.processes import free_port


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
        # The run's own student, whichever version is served to users.
        "versions": "false",
        "models": json.dumps([name for name, path in models.items() if path is None]),
        "paths": "{" + ", ".join(f"{json.dumps(n)} = {json.dumps(p)}" for n, p in paths) + "}",
        "context_tokens": context_tokens,
        "max_parallel": max_parallel,
        # The prompts are held out: they must not be recorded, for training or otherwise.
        "record_path": '""',
        "otlp_endpoint": '""',
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
