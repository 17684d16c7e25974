"""What is typed in a terminal, and text of others shown there."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import typer


def printable(text: str) -> str:
    """Return a model's text without characters that would control the terminal."""
    return "".join(
        one if one.isprintable() or one in "\n\t" else "\N{REPLACEMENT CHARACTER}" for one in text
    )


def key_among(keys: Iterable[str]) -> Callable[[str], str]:
    """Return a function that takes one of some keys, and lets a prompt ask again for another."""

    def key(text: str) -> str:
        if text not in keys:
            raise typer.BadParameter(f"type one of {', '.join(keys)}")
        return text

    return key
