"""Errors as OpenAI's clients expect them: status by exception type, one shape of body.

In: exceptions. Out: JSON responses. Knows nothing of routes. A traceback never leaves the process.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from potstill.errors import BackendError, BackendUnavailableError, ContextLengthError, PotstillError
from serve.api.wire.shared import ErrorBody
from serve.errors import (
    InvalidKeyError,
    InvalidRequestError,
    ModelNotFoundError,
    PromptTooLongError,
    QueueFullError,
    RateLimitError,
    RequestTimeoutError,
    RequestTooLargeError,
    RetryLaterError,
    SlowRequestError,
    UnsupportedContentError,
    UnsupportedParameterError,
    UpstreamError,
    WrongHostError,
)

logger = logging.getLogger(__name__)


class _Kind(NamedTuple):
    status: int
    type: str
    code: str | None


KINDS: dict[type[Exception], _Kind] = {
    UnsupportedParameterError: _Kind(400, "invalid_request_error", "unsupported_parameter"),
    RequestTooLargeError: _Kind(413, "invalid_request_error", "request_too_large"),
    UnsupportedContentError: _Kind(415, "invalid_request_error", "unsupported_content_type"),
    SlowRequestError: _Kind(408, "invalid_request_error", "request_timeout"),
    InvalidRequestError: _Kind(400, "invalid_request_error", "invalid_value"),
    ContextLengthError: _Kind(400, "invalid_request_error", "context_length_exceeded"),
    ModelNotFoundError: _Kind(404, "invalid_request_error", "model_not_found"),
    InvalidKeyError: _Kind(401, "invalid_request_error", "invalid_api_key"),
    WrongHostError: _Kind(421, "invalid_request_error", "wrong_host"),
    QueueFullError: _Kind(429, "rate_limit_error", "queue_full"),
    RateLimitError: _Kind(429, "rate_limit_error", "rate_limit_exceeded"),
    BackendUnavailableError: _Kind(503, "server_error", "unavailable"),
    UpstreamError: _Kind(502, "server_error", "upstream_failed"),
    RequestTimeoutError: _Kind(504, "server_error", "timeout"),
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
    body = _body(message, kind.type, param, kind.code)
    if isinstance(error, PromptTooLongError):
        body["error"]["n_prompt_tokens"] = error.num_prompt_tokens
        body["error"]["n_ctx"] = error.context_tokens
    return body


def error_response(error: Exception) -> JSONResponse:
    """Answer with an exception."""
    headers = {}
    if isinstance(error, RetryLaterError):
        headers["Retry-After"] = str(error.retry_after_seconds)
    if isinstance(error, InvalidKeyError):
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_body(error), _kind(error).status, headers)


def install_error_handlers(app: FastAPI) -> None:
    """Make every failure of `app` answer in OpenAI's shape."""
    app.add_exception_handler(PotstillError, _answer)
    app.add_exception_handler(Exception, _answer)
    app.add_exception_handler(RequestValidationError, _answer_invalid_body)
    app.add_exception_handler(ValidationError, _answer_invalid_body)
    app.add_exception_handler(HTTPException, _answer_http)


async def _answer(request: Request, error: Exception) -> JSONResponse:
    response = error_response(error)
    if isinstance(error, PromptTooLongError) and not request.url.path.startswith("/v1/"):
        # Clients of llama.cpp's server, which ask without /v1, know it by its own name.
        body = error_body(error)
        body["error"]["type"] = "exceed_context_size_error"
        response = JSONResponse(body, response.status_code)
    if response.status_code >= 500:
        logger.error("%s failed with %s", request.url.path, type(error).__name__)
    return response


async def _answer_invalid_body(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError | ValidationError)
    first = error.errors()[0]
    param = _encodable(".".join(str(part) for part in first["loc"] if part != "body"))
    message = _encodable(f"{param}: {first['msg']}" if param else str(first["msg"]))
    body = _body(message, "invalid_request_error", param or None, first["type"])
    return JSONResponse(body, 400)


def _encodable(text: str) -> str:
    """Replace lone surrogates: what a client sent may not be text that can be sent back."""
    return text.encode(errors="replace").decode()


async def _answer_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message = str(error.detail)
    if error.status_code in (404, 405):
        message = f"{message}: {request.method} {request.url.path}"
    body = _body(message, "invalid_request_error", None, None)
    return JSONResponse(body, error.status_code, error.headers)


def _kind(error: Exception) -> _Kind:
    return next(KINDS[cls] for cls in type(error).__mro__ if cls in KINDS)


def _body(message: str, kind: str, param: str | None, code: str | None) -> ErrorBody:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
