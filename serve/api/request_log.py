"""Log lines of requests: with the request's id, and without what exceptions quote.

An exception's message may contain what a user wrote: a database's error quotes the row, a parser's
the text. So its class and the lines of code are logged, and its message is not.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextvars import ContextVar

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""Id of the request in progress, as its response has it; "" outside of one."""


class PrivateRecords(logging.Filter):
    """Rewrites records for the log of a server."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite a record once, however many handlers write it."""
        if not getattr(record, "is_private", False):
            record.is_private = True
            lines = [record.getMessage().rstrip()]
            if record.exc_info and record.exc_info[1] is not None:
                lines += _frames(record.exc_info[1])
                record.exc_info = record.exc_text = None  # text that a handler has kept
            request_id = REQUEST_ID.get()
            record.msg = "\n".join([f"{request_id} {lines[0]}".lstrip(), *lines[1:]])
            record.args = ()
        return True


def keep_logs_private() -> None:
    """Rewrite the records of this process, those of libraries included."""
    for handler in logging.getLogger().handlers:
        if not any(isinstance(one, PrivateRecords) for one in handler.filters):
            handler.addFilter(PrivateRecords())


def _frames(error: BaseException) -> Iterator[str]:
    """Yield an exception's class and lines of code, its causes first."""
    seen: set[int] = set()
    chain: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        chain.append(one)
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    for cause in reversed(chain):
        yield from (line.rstrip() for line in traceback.format_tb(cause.__traceback__))
        yield type(cause).__name__
