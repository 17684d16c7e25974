"""The failures of serving that the shared error tree does not tell apart.

In: what the client asked for. Out: typed errors; the HTTP layer maps them to a status by type.
Knows nothing of HTTP.
"""

from __future__ import annotations

from potstill.errors import BackendUnavailableError, PotstillError


class InvalidRequestError(PotstillError, ValueError):
    """A request has a value that cannot be used; `where` names the parameter."""


class UnsupportedParameterError(InvalidRequestError):
    """A request asks for something that this server knows of and cannot do."""


class ModelNotFoundError(PotstillError):
    """A request names a model that is not served."""


class QueueFullError(BackendUnavailableError):
    """Too many requests wait already; the same request may succeed a little later."""

    retry_after_seconds = 1
