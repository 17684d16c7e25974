"""`potstill doctor`: what this machine has, and what fits on it."""

from __future__ import annotations

import os

import typer

from potstill.terminal import echo

app = typer.Typer()


@app.command()
def doctor() -> None:
    """Show what this machine has and which presets fit, with one line of advice each.

    Nothing is downloaded.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # Before anything imports the library that reads it.
    from potstill.doctor import examine

    for finding in examine():
        echo(finding.line())
