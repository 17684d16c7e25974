"""Regular expressions of an operator over texts of clients.

Python's `re` cannot be interrupted, and nothing else runs meanwhile: with a pattern such as
`(a+)+$` a short text would stop the server. `regex` takes the same patterns, lets other threads
run, and gives up.
"""

from __future__ import annotations

import regex

SECONDS = 2.0
"""How much processor time one text may take; a megabyte takes a tenth of it with most patterns."""


class Pattern:
    """A regular expression; may be used by several threads, not in the event loop."""

    def __init__(self, source: str) -> None:
        self._compiled = regex.compile(source)

    def is_in(self, text: str) -> bool:
        """Return whether a text has a match.

        Raises:
            TimeoutError: It takes too long to say.
        """
        return self._compiled.search(text, timeout=SECONDS, concurrent=True) is not None

    def replaced(self, text: str, replacement: str, seconds: float) -> str:
        """Return a text with its matches replaced; raises as `is_in` does.

        Args:
            seconds: How much processor time it may take.
        """
        return str(self._compiled.sub(replacement, text, timeout=seconds, concurrent=True))
