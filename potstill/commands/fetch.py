"""`potstill fetch`: a model by its name, ready to teach or to start from."""

from __future__ import annotations

from typing import Annotated

import typer

from potstill.checkpoints import find_checkpoint
from potstill.progress import set_up_logging

app = typer.Typer()


@app.command()
def fetch(
    model: Annotated[
        str,
        typer.Argument(
            help="A short name, a hub name, or a GGUF file, as generate.teacher.model takes it."
        ),
    ],
) -> None:
    """Download and verify a model, convert a GGUF file to a checkpoint, and print the path.

    Files that are there already are not downloaded again, nor are complete parts.
    """
    set_up_logging(verbose=False)
    typer.echo(find_checkpoint(model))
