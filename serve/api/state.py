"""State shared by the routes: backends by name, observers, the caller of a request."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from fastapi import Request

from potstill.task.task import Task
from serve.backends.protocol import Caller, ChatBackend, Exchange, Observer, Watcher
from serve.errors import InvalidRequestError, ModelNotFoundError, UnsupportedParameterError
from serve.keys import Key
from serve.metrics import Metrics
from serve.wire.shared import Received

logger = logging.getLogger(__name__)

C = TypeVar("C")
Body = TypeVar("Body", bound=Received)

MAX_SHOWN = 200
"""Characters of an unknown model's name in the error."""
SECRET_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization", "x-api-key"})


@dataclass(frozen=True)
class Serving:
    """The shared state of all requests."""

    backends: Mapping[str, ChatBackend]
    metrics: Metrics
    observers: Sequence[Observer] = ()
    fallback_model: str | None = None
    """Model that answers requests for unknown names and without a name."""
    request_timeout_seconds: float = field(default=600.0)
    task: Task | None = None
    """The task that the models are served with."""
    find_more: Callable[[str], ChatBackend | None] = lambda _name: None
    """Returns the backend of a name that is not listed, if there is one."""
    watcher: Watcher | None = None
    """Follows each chat from its request to its end."""
    needs_key: bool = False
    """Whether a request needs a key, the health checks excepted."""
    is_restricted: bool = False
    """Whether the caller's key may use some of the models only, which are the listed ones."""

    @property
    def failed_models(self) -> list[str]:
        """The models that will not work again in this process."""
        return [name for name, one in self.backends.items() if getattr(one, "has_failed", False)]

    def find(self, name: str | None) -> ChatBackend:
        """Return the backend of a model name.

        Raises:
            InvalidRequestError: No name was given, and there is no fallback.
            ModelNotFoundError: No model has the name.
        """
        if name is not None and name in self.backends:
            return self.backends[name]
        if name is not None and (found := self.find_more(name)) is not None:
            return found
        if self.fallback_model is not None:
            return self.backends[self.fallback_model]
        known = " | ".join(self.backends)
        if name is None:
            raise InvalidRequestError(
                "you must provide a model parameter", where="model", expected=known
            )
        shown = name[:MAX_SHOWN].encode(errors="replace").decode()
        raise ModelNotFoundError(
            f"the model {shown!r} does not exist", where="model", expected=known
        )

    def find_for(self, body: Body) -> tuple[ChatBackend, Body]:
        """Return the backend of a request, and the request with the backend's own model name.

        Raises:
            InvalidRequestError: No name was given, and there is no fallback.
            ModelNotFoundError: No model has the name.
        """
        backend = self.find(getattr(body, "model", None))
        return backend, body.model_copy(update={"model": backend.card["id"]})

    async def report(self, exchange: Exchange) -> None:
        """Call all observers with an exchange; exceptions they raise are logged."""
        for observer in self.observers:
            try:
                await observer(exchange)
            except Exception as error:
                logger.error("an observer failed with %s", type(error).__name__)


def capable(backend: ChatBackend, capability: type[C]) -> C:
    """Return a backend as one that has a capability.

    Raises:
        UnsupportedParameterError: It does not have it.
    """
    if not isinstance(backend, capability):
        raise UnsupportedParameterError(
            "this model does not support this endpoint", where="model", found=backend.card["id"]
        )
    return backend


def serving_of(http: Request) -> Serving:
    """Return the application's shared state, with the models that exist for the caller."""
    serving: Serving = http.app.state.serving
    key: Key | None = getattr(http.state, "key", None)
    if key is None or key.entry.models is None:
        return serving
    allowed = {name: one for name, one in serving.backends.items() if key.may_use(name)}
    fallback = serving.fallback_model if serving.fallback_model in allowed else None
    return replace(serving, backends=allowed, fallback_model=fallback, is_restricted=True)


def caller_of(http: Request) -> Caller:
    """Return the sender of a request."""
    headers = {name: value for name, value in http.headers.items() if name not in SECRET_HEADERS}
    num_bytes: int = getattr(http.state, "num_body_bytes", 0)
    key: Key | None = getattr(http.state, "key", None)
    if key is None:
        return Caller(headers=headers, num_bytes=num_bytes)
    return Caller(key.name, headers, key.reserve, num_bytes)
