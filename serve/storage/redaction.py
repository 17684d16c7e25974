"""The text that is stored: all, all but the matches of patterns, or none."""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from serve.patterns import SECONDS, Pattern
from serve.rate_limits import Bucket
from serve.storage.config import StorageConfig
from serve.wire.chat import ChatMessage

logger = logging.getLogger(__name__)

Texts = list[tuple[str, str]]
NOT_REDACTED = "[not redacted in time]"
"""Stored in place of a text."""
BURST_SECONDS = 4
"""Processor time of one owner's texts at once."""
SHARE_OF_OWNER = 0.25
"""The same in the long run: others' answers wait to be stored. A megabyte takes 0.1 s."""


class Redaction:
    """Redacts text by the rules of one configuration, in one thread."""

    def __init__(self, config: StorageConfig) -> None:
        self._budgets: defaultdict[str, Bucket] = defaultdict(
            lambda: Bucket(BURST_SECONDS, seconds=BURST_SECONDS / SHARE_OF_OWNER)
        )
        self._keeps_text = config.text
        self._patterns = [
            (Pattern(pattern), f"[{name}]") for name, pattern in config.redact.items()
        ]

    def text(self, text: str | None, owner: str = "") -> str | None:
        """Return the text to store; None stores nothing.

        Args:
            owner: Whose request it comes from.
        """
        with self._time_of(owner) as end:
            return self._redacted(text, end)

    def _redacted(self, text: str | None, end: float) -> str | None:
        """Return the text to store.

        Args:
            end: The processor time at which this process gives up.
        """
        if text is None or not self._keeps_text:
            return None
        # Lone surrogates and, in PostgreSQL, NUL cannot be stored.
        text = text.encode(errors="replace").decode().replace("\0", "\ufffd")
        try:
            for pattern, replacement in self._patterns:
                seconds = end - time.process_time()
                if seconds <= 0:
                    raise TimeoutError
                text = pattern.replaced(text, replacement, seconds)
        except TimeoutError:
            logger.warning("a text takes too long to redact, and is not stored")
            return NOT_REDACTED
        return text

    def texts(self, messages: Sequence[ChatMessage]) -> Texts | None:
        """Return what `messages` takes: role and text of each message; None if none are stored."""
        return [(_role_of(one), one.text) for one in messages] if self._keeps_text else None

    def messages(self, texts: Texts | None, owner: str = "") -> str | None:
        """Return the conversation to store, as JSON; the owner is as in `text`."""
        if texts is None:
            return None
        # All of them together take no longer than one: others' answers wait to be stored.
        with self._time_of(owner) as end:
            kept = [{"role": role, "content": self._redacted(text, end)} for role, text in texts]
        return json.dumps(kept, ensure_ascii=False)

    @contextmanager
    def _time_of(self, owner: str) -> Iterator[float]:
        """Yield the processor time at which this process gives up, and count what is used of it."""
        budget = self._budgets[owner]
        is_used_up = budget.seconds_until(1) > 0
        begin = time.thread_time()
        yield time.process_time() + (0.0 if is_used_up else SECONDS)
        budget.take(time.thread_time() - begin)


def _role_of(message: ChatMessage) -> str:
    """Return the role under which a message is stored."""
    return "system" if message.role == "developer" else message.role
