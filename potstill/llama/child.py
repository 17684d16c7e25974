"""Requests to llama.cpp that a fresh process answers, because a broken file may abort it."""

from __future__ import annotations

import json
import os
from typing import Any

from potstill.errors import ArtifactError, BackendError, ConversionError, first_line
from potstill.workers import Worker, WorkerError


def ask_in_child(service: str, doing: str, subject: object, **request: object) -> dict[str, Any]:
    """Return a service's answer to one request.

    Args:
        service: `module:function`, see `Worker`; it handles JSON objects.
        doing: What the service does, and `subject` with what: for the error message.
        request: The request; paths become strings.

    Raises:
        ConversionError: llama.cpp failed, or ended its process.
    """
    environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}
    try:
        with Worker(service, environment=environment) as worker:
            return worker.ask_json(json.loads(json.dumps(request, default=str)))
    except (ArtifactError, BackendError, WorkerError) as error:
        raise ConversionError(
            f"llama.cpp failed while {doing}",
            where=subject,
            found=error.found or first_line(error),
            hint="free disk space or memory; if there is enough, make the stage again with --force",
        ) from error
