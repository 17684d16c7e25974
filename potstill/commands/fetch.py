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
    """Download a model, check it, make a checkpoint of a GGUF file, and print where it is.

    What is there already is not downloaded again. An interrupted download resumes.
    """
    set_up_logging(verbose=False)
    typer.echo(find_checkpoint(model))
