"""The model in this process behind a name, for endpoints that need one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from serve.api.state import capable
from serve.backends.local.backend import LocalBackend
from serve.backends.local.swappable import SwappableBackend
from serve.backends.protocol import ChatBackend


@contextmanager
def in_use(backend: ChatBackend) -> Iterator[LocalBackend]:
    """Yield the model in this process behind a backend; it is not stopped within the block.

    Raises:
        UnsupportedParameterError: There is none.
    """
    if isinstance(backend, SwappableBackend):
        with backend.in_use() as now:
            yield now
    else:
        yield capable(backend, LocalBackend)
