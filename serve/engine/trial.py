"""A first loading of model files in a child process, which a hostile or broken one may crash.

llama.cpp checks most of a file, and aborts or reads beyond its memory at the rest. What survives a
whole loading and one token is then loaded in this process.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from potstill.errors import ArtifactError
from potstill.files import file_version
from potstill.llama.context import Context, measuring_params
from potstill.llama.model import LlamaModel
from potstill.workers import (
    Handler,
    Worker,
    WorkerError,
    environment_without_secrets,
    json_handler,
)

TRIAL_SECONDS = 600.0
"""How long a file may take; the largest ones are read from disk in a minute or two."""
SPARE_BYTES = 4 << 30
"""Address space beside the file itself."""
TOKENS = 16

_passed: set[tuple[object, object]] = set()
"""What has been tried in this process."""


def try_in_child(files: Iterable[tuple[Path, Path | None]]) -> None:
    """Load each model, with its adapter if it has one, in a child process.

    Raises:
        ArtifactError: A file is missing, cannot be loaded, or crashes whoever loads it.
    """
    for path, adapter in files:
        versions = file_version(path), adapter and file_version(adapter)
        if versions not in _passed:
            _try(path, adapter)
            _passed.add(versions)


def _try(path: Path, adapter: Path | None) -> None:
    size = path.stat().st_size if path.is_file() else 0
    request = {"path": str(path), "adapter": str(adapter) if adapter else None}
    with Worker(
        f"{__name__}:service",
        growth_bytes=2 * size + SPARE_BYTES,
        environment=environment_without_secrets() | {"GGML_NO_BACKTRACE": "1"},
        start_seconds=TRIAL_SECONDS,
    ) as worker:
        try:
            worker.ask_json(request, TRIAL_SECONDS)
        except WorkerError as error:
            raise ArtifactError(
                "a model file crashes the process that loads it, or takes too long",
                where=adapter or path,
                expected="an intact GGUF file",
                found=error.found or error.what,
                hint="do not serve it; if it is your own, make it again",
            ) from error


def service() -> Handler:
    """Return a handler that loads a model and evaluates one token."""

    def attempt(request: dict[str, Any]) -> dict[str, bool]:
        model = LlamaModel(Path(request["path"]), for_measurement=True, repacks=False)
        if request["adapter"]:
            model = model.adapted(Path(request["adapter"]))
        with Context(model, measuring_params(TOKENS, 1)) as context:
            for _ in context.logits([0], 0):
                pass
        return {"is_loaded": True}

    return json_handler(attempt)
