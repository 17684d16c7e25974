"""The verb `potstill generate`."""

from __future__ import annotations

from typing import Annotated

import typer

from potstill.commands.options import ForceOption, configured
from potstill.pipeline import STAGES, Choice, run_share, run_stage
from potstill.rundir import RunDirectory

STAGE = STAGES["generate"]

app = typer.Typer()


@app.command()
@configured
def generate(
    run_directory: RunDirectory,
    choice: Choice,
    force: ForceOption = False,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Make only the I-th of N shares, beside other processes or machines that share "
            "the run's disk; the last to end finishes the stage.",
        ),
    ] = None,
) -> None:
    """Sample the teacher's conversations with log-probabilities."""
    if shard is None:
        run_stage(STAGE, choice, run_directory, force=force)
    elif force:
        raise typer.BadParameter("give --force or --shard, not both: a shard is one of several")
    else:
        run_share(STAGE, choice, run_directory, shard)
