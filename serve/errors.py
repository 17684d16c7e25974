"""Errors of serving, beside those of the core; the HTTP layer maps them to a status by type."""

from __future__ import annotations

from potstill.errors import (
    BackendError,
    BackendUnavailableError,
    ContextLengthError,
    PotstillError,
)


class InvalidRequestError(PotstillError, ValueError):
    """A request has a value that cannot be used; `where` names the parameter."""


class UnsupportedParameterError(InvalidRequestError):
    """A request asks for something that this server does not support."""


class PromptTooLongError(ContextLengthError):
    """A prompt and its completion do not fit the context."""

    num_prompt_tokens = 0
    context_tokens = 0


class RequestTooLargeError(InvalidRequestError):
    """A request's body is too large."""


class UnsupportedContentError(InvalidRequestError):
    """A request's content type is not JSON."""


class SlowRequestError(InvalidRequestError):
    """A request's body did not arrive in time."""


class ModelNotFoundError(PotstillError):
    """A request names a model that is not served."""


class InvalidKeyError(PotstillError):
    """A request has no API key, or a wrong one."""


class WrongHostError(PotstillError):
    """A request names another host, as after DNS rebinding by a web page."""


class RetryLaterError(BackendUnavailableError):
    """The same request may succeed later."""

    retry_after_seconds = 1
    """An estimate, at least 1."""


class QueueFullError(RetryLaterError):
    """Too many requests wait already."""


class RateLimitError(RetryLaterError):
    """A key has used up its limit per minute."""


class ForeignPageError(PotstillError):
    """A browser sends a request for a page of another site, which may not call this server."""


class UpstreamError(BackendError):
    """An upstream server failed, or sent something that is not an answer."""


class RequestTimeoutError(BackendError):
    """An answer took too long."""
