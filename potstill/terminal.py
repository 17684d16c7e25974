"""What is typed in a terminal, and text of others shown there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult


def printable(text: str) -> str:
    """Return a model's text without characters that would control the terminal."""
    return "".join(
        one if one.isprintable() or one in "\n\t" else "\N{REPLACEMENT CHARACTER}" for one in text
    )


def echo(text: str) -> None:
    """Print a line, which may quote a file or a server, on stdout."""
    typer.echo(printable(text))


def show(what: RenderableType, *, soft_wrap: bool = False) -> None:
    """Print a table or a text, which may quote a file or a server, on stdout.

    Args:
        soft_wrap: Whether the terminal breaks long lines, not rich.
    """
    from rich.console import Console

    console = Console(markup=False, highlight=not isinstance(what, str))
    console.print(_Shown(what), soft_wrap=soft_wrap)


@dataclass(frozen=True)
class _Shown:
    what: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield what is shown; rich itself lets escape sequences pass."""
        for part in console.render(self.what, options):
            yield part if part.control else part._replace(text=printable(part.text))


def key_among(keys: Iterable[str]) -> Callable[[str], str]:
    """Return a function that takes one of some keys, and lets a prompt ask again for another."""

    def key(text: str) -> str:
        if text not in keys:
            raise typer.BadParameter(f"type one of {', '.join(keys)}")
        return text

    return key
