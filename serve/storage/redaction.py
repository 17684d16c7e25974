"""The text that is stored: all, all but the matches of patterns, or none."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence

from serve.patterns import SECONDS, Pattern
from serve.storage.config import StorageConfig
from serve.wire.chat import ChatMessage

logger = logging.getLogger(__name__)

Texts = list[tuple[str, str]]
NOT_REDACTED = "[not redacted in time]"
"""Stored in place of a text."""


class Redaction:
    """Redacts text by the rules of one configuration."""

    def __init__(self, config: StorageConfig) -> None:
        self._keeps_text = config.text
        self._patterns = [
            (Pattern(pattern), f"[{name}]") for name, pattern in config.redact.items()
        ]

    def text(self, text: str | None) -> str | None:
        """Return the text to store; None stores nothing."""
        return self._redacted(text, time.process_time() + SECONDS)

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

    def messages(self, texts: Texts | None) -> str | None:
        """Return the conversation to store, as JSON."""
        if texts is None:
            return None
        # All of them together take no longer than one: others' answers wait to be stored.
        end = time.process_time() + SECONDS
        kept = [{"role": role, "content": self._redacted(text, end)} for role, text in texts]
        return json.dumps(kept, ensure_ascii=False)


def _role_of(message: ChatMessage) -> str:
    """Return the role under which a message is stored."""
    return "system" if message.role == "developer" else message.role
