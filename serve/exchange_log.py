"""Requests and answers appended to a JSONL file, as prompts of a later distillation.

Off by default (`serve.record_path`), because it holds what users write.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import logging
import os
from pathlib import Path

from potstill.errors import ConfigError
from serve.backends.protocol import Exchange
from serve.wire.chat import ChatCompletion

logger = logging.getLogger(__name__)

PRIVATE = 0o600
"""Mode of a new file: only its owner may read it."""


class ExchangeLog:
    """A file that several servers may append to, and that may be moved away while they run.

    Nothing is left out or redacted: it contains what users wrote.

    Raises:
        ConfigError: The file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._has_failed = False
        try:
            os.close(_open(path))
        except OSError as error:
            raise ConfigError(
                "requests cannot be recorded",
                where="serve.record_path",
                expected="a file that can be appended to, in a directory that exists",
                found=error,
            ) from error

    async def __call__(self, exchange: Exchange) -> None:
        """Append an exchange."""
        # A disk may be slow: not in the event loop.
        await asyncio.to_thread(self.append, exchange.body, exchange.completion)

    def append(self, request: object, response: ChatCompletion) -> None:
        """Append an exchange; a failure raises nothing and is logged, once until one succeeds."""
        exchange = {
            "created": response["created"],
            "model": response["model"],
            "request": request,
            "response": response,
        }
        # Lone surrogates become their JSON escapes again.
        text = json.dumps(exchange, ensure_ascii=False, separators=(",", ":"))
        try:
            _append(self._path, text.encode(errors="backslashreplace") + b"\n")
        except OSError as error:
            if not self._has_failed:
                logger.error("requests are not recorded: %s", error)
            self._has_failed = True
        else:
            self._has_failed = False


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, PRIVATE)


def _append(path: Path, line: bytes) -> None:
    """Append a whole line or nothing."""
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        end = os.fstat(descriptor).st_size
        if os.write(descriptor, line) < len(line):
            os.ftruncate(descriptor, end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(descriptor)
