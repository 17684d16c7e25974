"""The text that is stored: all, all but the matches of patterns, or none."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

from serve.patterns import Pattern
from serve.storage.config import StorageConfig
from serve.wire.chat import ChatMessage

logger = logging.getLogger(__name__)

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
        if text is None or not self._keeps_text:
            return None
        # Lone surrogates and, in PostgreSQL, NUL cannot be stored.
        text = text.encode(errors="replace").decode().replace("\0", "\ufffd")
        try:
            for pattern, replacement in self._patterns:
                text = pattern.replaced(text, replacement)
        except TimeoutError:
            logger.warning("a text takes too long to redact, and is not stored")
            return NOT_REDACTED
        return text

    def messages(self, messages: Sequence[ChatMessage]) -> str | None:
        """Return the conversation to store, as JSON."""
        if not self._keeps_text:
            return None
        kept = [{"role": _role_of(one), "content": self.text(one.text)} for one in messages]
        return json.dumps(kept, ensure_ascii=False)


def _role_of(message: ChatMessage) -> str:
    """Return the role under which a message is stored."""
    return "system" if message.role == "developer" else message.role
