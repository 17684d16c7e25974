"""Common entries of all routes in the OpenAPI document: values for FastAPI's decorators."""

from __future__ import annotations

from typing import Any

from serve.wire.messages import MessageError
from serve.wire.shared import ErrorBody

FAILURES: dict[int | str, dict[str, Any]] = {
    "default": {"model": ErrorBody, "description": "Any failure, in OpenAI's shape."}
}
MESSAGE_FAILURES: dict[int | str, dict[str, Any]] = {
    "default": {"model": MessageError, "description": "Any failure, in Anthropic's shape."}
}
STREAM_OR: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer, or with `stream` its chunks as server-sent events.",
        # Without a schema: it would be that of each event's fields.
        "content": {"text/event-stream": {}},
    }
}
