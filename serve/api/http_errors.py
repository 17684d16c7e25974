"""Errors as OpenAI's clients expect them: status by exception type, one shape of body.

In: exceptions. Out: JSON responses. Knows nothing of routes. A traceback never leaves the process.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from potstill.errors import BackendError, BackendUnavailableError, ContextLengthError, PotstillError
from serve.api.wire import ErrorBody
from serve.errors import (
    InvalidRequestError,
    ModelNotFoundError,
    QueueFullError,
    UnsupportedParameterError,
)

logger = logging.getLogger(__name__)


class _Kind(NamedTuple):
    status: int
    type: str
    code: str | None


KINDS: dict[type[Exception], _Kind] = {
    UnsupportedParameterError: _Kind(400, "invalid_request_error", "unsupported_parameter"),
    InvalidRequestError: _Kind(400, "invalid_request_error", "invalid_value"),
    ContextLengthError: _Kind(400, "invalid_request_error", "context_length_exceeded"),
    ModelNotFoundError: _Kind(404, "invalid_request_error", "model_not_found"),
    QueueFullError: _Kind(429, "rate_limit_error", "queue_full"),
    BackendUnavailableError: _Kind(503, "server_error", "unavailable"),
    BackendError: _Kind(500, "server_error", "backend_failed"),
    Exception: _Kind(500, "server_error", "internal_error"),
}
"""The most specific class of an exception decides."""


def error_body(error: Exception) -> ErrorBody:
    """Describe an exception to a client; one that is not ours is named only as internal."""
    message, param = "internal error", None
    if isinstance(error, PotstillError):
        details = [("expected", error.expected), ("found", error.found), ("hint", error.hint)]
        said = [f"{name}: {value}" for name, value in details if value is not None]
        message = "; ".join([error.what, *said])
        param = None if error.where is None else str(error.where)
    kind = _kind(error)
    return _body(message, kind.type, param, kind.code)


def install_error_handlers(app: FastAPI) -> None:
    """Make every failure of `app` answer in OpenAI's shape."""
    app.add_exception_handler(PotstillError, _answer)
    app.add_exception_handler(Exception, _answer)
    app.add_exception_handler(RequestValidationError, _answer_invalid_body)
    app.add_exception_handler(HTTPException, _answer_http)


async def _answer(request: Request, error: Exception) -> JSONResponse:
    status = _kind(error).status
    if status >= 500:
        logger.error("%s failed with %s", request.url.path, type(error).__name__)
    headers = {}
    if isinstance(error, QueueFullError):
        headers["Retry-After"] = str(error.retry_after_seconds)
    return JSONResponse(error_body(error), status, headers)


async def _answer_invalid_body(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"] if part != "body") or None
    message = f"{param}: {first['msg']}" if param else str(first["msg"])
    return JSONResponse(_body(message, "invalid_request_error", param, first["type"]), 400)


async def _answer_http(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    body = _body(str(error.detail), "invalid_request_error", None, None)
    return JSONResponse(body, error.status_code, error.headers)


def _kind(error: Exception) -> _Kind:
    return next(KINDS[cls] for cls in type(error).__mro__ if cls in KINDS)


def _body(message: str, kind: str, param: str | None, code: str | None) -> ErrorBody:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
