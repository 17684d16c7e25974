"""Files that are either complete or absent, and their hashes.

In: bytes, text and paths. Out: files replaced atomically; sha256 as hex.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from potstill.errors import ArtifactError, PotstillError

CHUNK_BYTES = 1 << 20


def sha256_bytes(content: bytes) -> str:
    """Return the sha256 of `content` as 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file as 64 hex digits, reading it in chunks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync_path(path: Path) -> None:
    """Flush a file or directory to the disk, so that it is complete before a later rename."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unfinished_path(target: Path) -> Path:
    """Return where this process makes a file or directory that several may make at once.

    What killed processes left there is removed.
    """
    for path in target.parent.glob(f"{target.name}.partial-*"):
        if not _is_alive(int(path.name.rpartition("-")[2])):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return target.with_name(f"{target.name}.partial-{os.getpid()}")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


def file_version(path: Path) -> tuple[int, int, int, int] | None:
    """Return a file's device and number, its size and its time: they change when it is written to.

    Returns:
        None if there is no such file, or it cannot be looked at.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def remove_unfinished(directory: Path) -> None:
    """Remove the temporary files of processes that were killed inside `replacing`."""
    for path in directory.rglob(".*.tmp"):
        path.unlink()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it into place when the block succeeds.

    A reader sees the old file or the new one, never a part, even after kill -9.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        sync_path(temporary)
        temporary.replace(path)
        sync_path(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path` atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


HINTS: dict[type[Exception], str] = {
    FileNotFoundError: "relative paths begin in the directory where potstill is started: for those "
    "of a run, start it where the run was begun",
    IsADirectoryError: "name a file in the directory",
    NotADirectoryError: "a file is where a directory should be: check the path",
    PermissionError: "check the owner and the permissions, or choose another directory",
}
FULL_HINT = (
    "free disk space or choose another directory, then run the same command again; finished work "
    "is kept"
)


@contextmanager
def disk_errors(doing: str, path: Path) -> Iterator[None]:
    """Turn an operating-system error in the block into an ArtifactError that names `path`.

    Raises:
        ArtifactError: The disk is full, or the path cannot be read or written.
    """
    try:
        yield
    except PotstillError:
        raise
    except OSError as error:
        raise ArtifactError(
            f"{doing} failed: {error.strerror or error}",
            where=error.filename or path,
            hint=HINTS.get(type(error), FULL_HINT),
        ) from error


def read_typed_text(path: Path, doing: str) -> str:
    """Return a text that a person wrote, without a byte order mark.

    Args:
        doing: What the file is read for, for errors.

    Raises:
        ArtifactError: It cannot be read, or is not UTF-8.
    """
    with disk_errors(doing, path):
        content = path.read_bytes()
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = 1 + content.count(b"\n", 0, error.start)
        raise ArtifactError(
            f"{doing} failed: the file is not UTF-8",
            where=f"{path}:{line}",
            expected="UTF-8",
            found=f"byte 0x{content[error.start]:02x}",
            hint="save the file as UTF-8",
        ) from error
