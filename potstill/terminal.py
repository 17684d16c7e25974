"""Text of others, shown in a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return a model's text without characters that would control the terminal."""
    return "".join(
        one if one.isprintable() or one in "\n\t" else "\N{REPLACEMENT CHARACTER}" for one in text
    )
