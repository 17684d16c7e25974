"""Repositories of the Hugging Face hub, at a revision if the name has one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

REVISION_SIGN = "@"


def without_revision(name: str) -> str:
    """Return the name of a repository, `owner/model` of `owner/model@revision`."""
    return name.partition(REVISION_SIGN)[0]


def snapshot(name: str, patterns: Sequence[str], *, local_files_only: bool) -> Path:
    """Return the directory of a repository's files, fetched if they are not in the hub's cache.

    Args:
        name: `owner/model`, or `owner/model@revision` with a branch, a tag or a commit.
        patterns: Names of the files that are wanted, with wildcards.

    Raises:
        OSError: The hub has no such files, or cannot be reached.
        ValueError: Not a repository's name.
    """
    from huggingface_hub import snapshot_download  # Here, because the core starts without it.

    repository, _, revision = name.partition(REVISION_SIGN)
    return Path(
        snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=list(patterns),
            local_files_only=local_files_only,
        )
    )
