"""Student and teacher as endpoints: files of a run behind `potstill serve`, or servers elsewhere.

In: which side is a file and which an address. Out: `Endpoint`s, for as long as a block runs. Knows
nothing of what they are asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from compare.answers.answers import Role
from compare.answers.client import Endpoint, find_endpoint
from compare.config import CompareConfig, SideConfig

ModelFiles = Mapping[str, Path | None]
"""Models by name, with their file where it is not one of the run's."""
OpenEndpoint = Callable[[ModelFiles, int, int, Path], AbstractContextManager[str]]
"""Serve models with a context of so many tokens, so many requests at once, log to a path, and yield
the base URL."""


@dataclass(frozen=True)
class FileSide:
    """A side that is a file."""

    name: str
    """As the gguf stage and `potstill serve` call it."""
    sha256: str
    path: Path | None = None
    """Where it lies, if it is not one of the run's."""

    @property
    def identity(self) -> str:
        """What its answers are kept under: the same file gives the same answers."""
        return f"sha256:{self.sha256}"


Sides = Mapping[Role, FileSide | Endpoint]


@dataclass(frozen=True)
class Serving:
    """How files are served."""

    open_endpoint: OpenEndpoint
    context_tokens: int
    log_path: Path
    max_concurrency: int
    timeout_seconds: float
    max_retries: int

    def with_room(self, num_tokens: int) -> Serving:
        """Return the same with a context that is so much longer."""
        return replace(self, context_tokens=self.context_tokens + num_tokens)

    @contextmanager
    def served(self, sides: Sides) -> Iterator[dict[Role, Endpoint]]:
        """Yield an endpoint for each side; a server is started if one of them is a file."""
        files = {role: side for role, side in sides.items() if isinstance(side, FileSide)}
        found: dict[Role, Endpoint] = {
            role: side for role, side in sides.items() if isinstance(side, Endpoint)
        }
        if not files:
            yield found
            return
        models = {side.name: side.path for side in files.values()}
        with self.open_endpoint(
            models, self.context_tokens, self.max_concurrency, self.log_path
        ) as base_url:
            for role, side in files.items():
                found[role] = self.endpoint(side, base_url)
            yield found

    def endpoint(self, side: FileSide, base_url: str) -> Endpoint:
        """Return where a file is served, on a server that runs."""
        return Endpoint(
            base_url=base_url,
            model=side.name,
            identity=side.identity,
            timeout_seconds=self.timeout_seconds,
            max_retries=self.max_retries,
        )


def name_of(side: FileSide | Endpoint) -> str:
    """Return what a side is called in the report."""
    return side.name if isinstance(side, FileSide) else side.model


def endpoint_of(side: SideConfig, config: CompareConfig) -> Endpoint:
    """Return where a side is served elsewhere; raises as `find_endpoint` does."""
    return find_endpoint(
        side.base_url,
        side.model,
        side.api_key_variable,
        timeout_seconds=config.request_timeout_seconds,
        max_retries=config.max_retries,
        limit_name=side.limit_name,
    )
