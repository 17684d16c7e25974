"""Upload a finished stage to an object store, or to any file system that fsspec supports.

In: a stage's directory and a URL. Out: the same files there, the manifest last, so that a copy with
a manifest is complete.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from potstill.errors import ArtifactError, ConfigError
from potstill.manifest import MANIFEST_NAME, read_manifest
from potstill.progress import track


def upload_stage(directory: Path, url: str) -> None:
    """Copy a finished stage's files to a URL, unless a complete copy exists there.

    Raises:
        ConfigError: The URL's file system is unknown or not installed.
        ArtifactError: The copy cannot be written.
    """
    filesystem, root = find_target(url)
    manifest = (directory / MANIFEST_NAME).read_bytes()
    names = [output.path for output in read_manifest(directory).outputs]
    try:
        if _content(filesystem, f"{root}/{MANIFEST_NAME}") == manifest:
            return
        filesystem.makedirs(root, exist_ok=True)
        with track(f"copying to {url}", len(names), "files") as progress:
            for name in names:
                filesystem.put_file(str(directory / name), f"{root}/{name}")
                progress.advance(1)
        filesystem.pipe_file(f"{root}/{MANIFEST_NAME}", manifest)
    except Exception as error:  # Each file system raises its own library's errors.
        raise ArtifactError(
            "the finished conversations cannot be copied",
            where=url,
            found=str(error) or type(error).__name__,
            hint=f"they are complete in {directory}; fix the cause and run the same command again",
        ) from error


def find_target(url: str) -> tuple[Any, str]:
    """Return the file system and the path that a URL names.

    Raises:
        ConfigError: The file system is unknown or not installed.
    """
    import fsspec

    try:
        filesystem, root = fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            "unknown file system for the copy",
            where=f"generate.copy_to = {url}",
            expected="a URL that fsspec supports, and the package of its file system",
            found=error,
            hint="s3:// needs s3fs, gs:// needs gcsfs, az:// needs adlfs",
        ) from error
    return filesystem, str(root)


def _content(filesystem: Any, path: str) -> bytes | None:  # noqa: ANN401  (fsspec has no types)
    try:
        content: bytes = filesystem.cat_file(path)
    except FileNotFoundError:
        return None
    return content
