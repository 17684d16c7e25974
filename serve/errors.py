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
    """A request asks for something that this server knows of and cannot do."""


class PromptTooLongError(ContextLengthError):
    """A prompt and what is to follow it do not fit the context."""

    num_prompt_tokens = 0
    context_tokens = 0


class RequestTooLargeError(InvalidRequestError):
    """A request's body is larger than is taken."""


class UnsupportedContentError(InvalidRequestError):
    """A request's body is not JSON by its own account."""


class SlowRequestError(InvalidRequestError):
    """A request's body did not arrive in time."""


class ModelNotFoundError(PotstillError):
    """A request names a model that is not served."""


class InvalidKeyError(PotstillError):
    """A request has no API key, or a wrong one."""


class WrongHostError(PotstillError):
    """A request is meant for another host: a web page's, by DNS rebinding."""


class RetryLaterError(BackendUnavailableError):
    """The same request may succeed later."""

    retry_after_seconds = 1
    """A prediction, at least 1."""


class QueueFullError(RetryLaterError):
    """Too many requests wait already."""


class RateLimitError(RetryLaterError):
    """A key has used up what it may ask for in a minute."""


class UpstreamError(BackendError):
    """The server that answers for a model has failed, or answers with what is no answer."""


class RequestTimeoutError(BackendError):
    """An answer took longer than is allowed."""
