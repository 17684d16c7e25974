"""Exceptions as JSON responses in OpenAI's shape, or Anthropic's under its routes.

The status is decided by type. A traceback never leaves the process.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from potstill.errors import BackendError, BackendUnavailableError, ContextLengthError, PotstillError
from serve.errors import (
    ForeignPageError,
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
from serve.wire.messages import message_error
from serve.wire.shared import ErrorBody

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
    ForeignPageError: _Kind(403, "invalid_request_error", "foreign_page"),
    WrongHostError: _Kind(421, "invalid_request_error", "wrong_host"),
    QueueFullError: _Kind(429, "rate_limit_error", "queue_full"),
    RateLimitError: _Kind(429, "rate_limit_error", "rate_limit_exceeded"),
    BackendUnavailableError: _Kind(503, "server_error", "unavailable"),
    UpstreamError: _Kind(502, "server_error", "upstream_failed"),
    RequestTimeoutError: _Kind(504, "server_error", "timeout"),
    BackendError: _Kind(500, "server_error", "backend_failed"),
    Exception: _Kind(500, "server_error", "internal_error"),
}
"""By class of exception; the most specific one decides."""

ANTHROPICS = "/v1/messages/"
"""What the paths of Anthropic's routes begin with, a slash added."""

MAX_MESSAGE_CHARACTERS = 2000
"""Of an error: what it quotes may be a whole request, and answers may stay unread for a minute."""

CODES = {
    "missing": "missing_required_parameter",
    "too_long": "array_above_max_length",
    "too_short": "empty_array",
    "string_too_long": "string_above_max_length",
    "json_invalid": None,
    "unsupported_parameter": "unsupported_parameter",
}
"""OpenAI's codes of pydantic's errors, besides those of types and bounds."""


class ErrorResponse(JSONResponse):
    """A failure: in Anthropic's shape under its routes, in OpenAI's under others."""

    def __init__(
        self, body: ErrorBody, status: int, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(body, status, headers)
        self._given = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        if f"{scope.get('path')}/".startswith(ANTHROPICS):
            self.body = self.render(message_error(self._given, self.status_code))
            self.headers["content-length"] = str(len(self.body))
        await super().__call__(scope, receive, send)


def error_body(error: Exception) -> ErrorBody:
    """Return the body for an exception; a foreign one is reported only as internal."""
    message, param = "internal error", None
    if isinstance(error, PotstillError):
        details = [("expected", error.expected), ("found", error.found), ("hint", error.hint)]
        parts = [f"{name}: {value}" for name, value in details if value is not None]
        message = "; ".join([error.what, *parts])
        param = None if error.where is None else str(error.where)
    kind = _kind(error)
    body = _body(_encodable(message), kind.type, param and _encodable(param), kind.code)
    if isinstance(error, PromptTooLongError):
        body["error"]["n_prompt_tokens"] = error.num_prompt_tokens
        body["error"]["n_ctx"] = error.context_tokens
    return body


def status_of(error: Exception) -> int:
    """Return the status of the response for an exception."""
    return _kind(error).status


def error_response(error: Exception) -> ErrorResponse:
    """Return the response for an exception."""
    headers = {}
    if isinstance(error, RetryLaterError):
        headers["Retry-After"] = str(error.retry_after_seconds)
    if isinstance(error, InvalidKeyError):
        headers["WWW-Authenticate"] = "Bearer"
    return ErrorResponse(error_body(error), status_of(error), headers)


def shutting_down() -> RetryLaterError:
    """Return the error of a request that the server's end cuts off."""
    return RetryLaterError("the server is shutting down", hint="send the request again")


def install_error_handlers(app: FastAPI) -> None:
    """Make every failure of `app` a response in OpenAI's shape."""
    app.add_exception_handler(PotstillError, _answer)
    app.add_exception_handler(Exception, _answer)
    app.add_exception_handler(RequestValidationError, _answer_invalid_body)
    app.add_exception_handler(ValidationError, _answer_invalid_body)
    app.add_exception_handler(HTTPException, _answer_http)


async def _answer(request: Request, error: Exception) -> JSONResponse:
    response = error_response(error)
    if isinstance(error, PromptTooLongError) and not str(request.scope["path"]).startswith("/v1/"):
        # Clients of llama.cpp's server, which call paths without /v1, expect its own name.
        body = error_body(error)
        body["error"]["type"] = "exceed_context_size_error"
        response = ErrorResponse(body, response.status_code)
    if response.status_code >= 500:
        logger.error("%r failed with %s", request.scope["path"], type(error).__name__)
    return response


async def _answer_invalid_body(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError | ValidationError)
    given = error.body if isinstance(error, RequestValidationError) else None
    problem = _most_specific(error.errors(), given)
    param = _encodable(_parameter(problem, given))
    message = _encodable(f"{param}: {problem['msg']}" if param else str(problem["msg"]))
    body = _body(message, "invalid_request_error", param or None, _code(problem))
    return ErrorResponse(body, 400)


def _most_specific(errors: Sequence[Mapping[str, Any]], body: object) -> Mapping[str, Any]:
    """Return the error of the first invalid parameter.

    Of a union's alternatives, the one that matched furthest was probably meant.
    """

    def depth(error: Mapping[str, Any]) -> tuple[int, bool]:
        spelled = _parameter(error, body)
        return spelled.count(".") + spelled.count("["), not error["type"].endswith("_type")

    return max((one for one in errors if one["loc"][:2] == errors[0]["loc"][:2]), key=depth)


def _parameter(error: Mapping[str, Any], body: object) -> str:
    """Return the invalid place of a body in OpenAI's spelling, such as `messages[0].content`.

    Pydantic adds the names of the alternatives it tried; they are not in the body.
    """
    kind, *location = error["loc"] or ("body",)
    if kind != "body":
        return str(location[0] if kind in ("path", "query") else kind)
    missing = error["loc"][-1] if error["type"] == "missing" else None
    spelled = ""
    for part in location:
        if isinstance(body, list) and isinstance(part, int) and part < len(body):
            spelled, body = f"{spelled}[{part}]", body[part]
        elif isinstance(body, dict) and (part in body or part == missing):
            spelled, body = f"{spelled}.{part}", body.get(part)
    return spelled.removeprefix(".")


def _code(error: Mapping[str, Any]) -> str | None:
    """Return OpenAI's code for an error of pydantic."""
    kind: str = error["type"]
    bounds = error.get("ctx", {}).values()
    number = "decimal" if any(isinstance(bound, float) for bound in bounds) else "integer"
    if kind.startswith("greater_than"):
        return f"{number}_below_min_value"
    if kind.startswith("less_than"):
        return f"{number}_above_max_value"
    if kind.endswith(("_type", "_parsing")):
        return "invalid_type"
    return CODES.get(kind, "invalid_value")


def _encodable(text: str) -> str:
    """Replace lone surrogates, which a client may send but which cannot be encoded."""
    return text.encode(errors="replace").decode()


async def _answer_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message = str(error.detail)
    if error.status_code in (404, 405):
        # Not `request.url`, which is made of the Host header.
        message = f"{message}: {request.method} {request.scope['path']}"
    body = _body(message, "invalid_request_error", None, None)
    return ErrorResponse(body, error.status_code, error.headers)


def _kind(error: Exception) -> _Kind:
    return next(KINDS[cls] for cls in type(error).__mro__ if cls in KINDS)


def _body(message: str, kind: str, param: str | None, code: str | None) -> ErrorBody:
    message, param = _shortened(message), param and _shortened(param)
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _shortened(text: str) -> str:
    if len(text) <= MAX_MESSAGE_CHARACTERS:
        return text
    return f"{text[:MAX_MESSAGE_CHARACTERS]}…"
