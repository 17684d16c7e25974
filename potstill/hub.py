"""Repositories of the Hugging Face hub, at a revision if the name has one.

The hub's client names files in its cache by what the server sends as a file's hash and commit. A
server, or a mirror, could send a path there, and have other files written or read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

REVISION_SIGN = "@"
NAMING_HEADERS = ("etag", "x-linked-etag", "x-repo-commit")
"""Headers that become parts of paths."""
NAME = re.compile(r'(W/)?"?(?!\.\.?"?$)[^/\\\0"]+"?')


def without_revision(name: str) -> str:
    """Return the name of a repository, `owner/model` of `owner/model@revision`."""
    return name.partition(REVISION_SIGN)[0]


def snapshot(name: str, patterns: Sequence[str], *, local_files_only: bool) -> Path:
    """Return the directory of a repository's files, fetched if they are not in the hub's cache.

    Args:
        name: `owner/model`, or `owner/model@revision` with a branch, a tag or a commit.
        patterns: Names of the files that are wanted, with wildcards.

    Raises:
        OSError: The hub has no such files, cannot be reached, or sends what it should not.
        ValueError: Not a repository's name.
    """
    import httpx2  # Here, because the core starts without them.
    from huggingface_hub import snapshot_download

    guard_client()
    repository, _, revision = name.partition(REVISION_SIGN)
    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision or None,
                allow_patterns=list(patterns),
                local_files_only=local_files_only,
            )
        )
    except (httpx2.HTTPError, httpx2.InvalidURL, LookupError, TypeError) as error:
        # What the client raises for answers that break off, or have another shape.
        raise OSError(f"the hub's answer cannot be used: {type(error).__name__}") from error


@cache
def guard_client() -> None:
    """Let the hub's client refuse names that are paths, also after it connects anew."""
    import httpx2
    from huggingface_hub import get_session, set_client_factory

    hooks = get_session().event_hooks
    hooks = {**hooks, "response": [*hooks["response"], refuse_paths]}

    def client() -> httpx2.Client:
        # As huggingface_hub 2.4 makes it, but for the check.
        return httpx2.Client(event_hooks=hooks, follow_redirects=True, timeout=None)

    set_client_factory(client)


def refuse_paths(response: Any) -> None:  # noqa: ANN401  (httpx2 is imported with the hub's client)
    """Check an answer of the hub.

    Raises:
        OSError: What becomes the name of a file is a path.
    """
    names = []
    if response.request.method == "HEAD":
        names = [response.headers.get(name, "x") for name in NAMING_HEADERS]
    elif response.request.url.path.startswith("/api/") and response.is_success:
        response.read()
        content = response.json() if response.content else None
        if isinstance(content, dict) and "sha" in content:
            names = [str(content["sha"])]
    if wrong := [name for name in names if not NAME.fullmatch(name)]:
        raise OSError(f"the hub names a file by a path: {wrong[0]!r}")
