"""Student and teacher as endpoints: files of a run behind `potstill serve`, or other servers.

In: which side is a file and which an address. Out: `Endpoint`s, for the duration of a `with` block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from compare.answers.answers import Role
from compare.answers.client import Endpoint
from compare.config import CompareConfig

SPARE_CONTEXT_TOKENS = 32
"""Context for the warm-up and the template, in addition to prompt and answer."""
ModelFiles = Mapping[str, Path | None]
"""Models by name, with their path if they are not files of the run."""
OpenEndpoint = Callable[[ModelFiles, int, int, Path], AbstractContextManager[str]]
"""From models, context length in tokens, most concurrent requests and log path to the base URL."""


@dataclass(frozen=True)
class FileSide:
    """A side that is a GGUF file."""

    name: str
    """Its name in the gguf stage and at `potstill serve`."""
    sha256: str
    path: Path | None = None
    """Its path if it is not a file of the run."""

    @property
    def identity(self) -> str:
        """Part of the cache key of its answers: the same file gives the same answers."""
        return f"sha256:{self.sha256}"


Side = FileSide | Endpoint
Sides = Mapping[Role, Side]


@dataclass(frozen=True)
class Serving:
    """How files are served."""

    config: CompareConfig
    open_endpoint: OpenEndpoint
    context_tokens: int
    log_path: Path

    def with_room(self, num_tokens: int) -> Serving:
        """Return the same with a longer context."""
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
            models, self.context_tokens, self.config.max_concurrency, self.log_path
        ) as base_url:
            for role, side in files.items():
                found[role] = self.endpoint(side, base_url)
            yield found

    def endpoint(self, side: FileSide, base_url: str) -> Endpoint:
        """Return the endpoint of a file on a running server."""
        return Endpoint(
            base_url=base_url,
            model=side.name,
            identity=side.identity,
            timeout_seconds=self.config.request_timeout_seconds,
            max_retries=self.config.max_retries,
            reads_grammars=True,
        )


def name_of(side: FileSide | Endpoint) -> str:
    """Return the name of a side for the report."""
    return side.name if isinstance(side, FileSide) else side.model
