"""The verb `potstill generate`."""

from __future__ import annotations

from typing import Annotated

import typer

from potstill.commands.options import (
    ConfigOption,
    ForceOption,
    PresetOption,
    RunArgument,
    SetOption,
    VerboseOption,
    choice_of,
)
from potstill.pipeline import STAGES, run_share, run_stage
from potstill.progress import set_up_logging
from potstill.rundir import RunDirectory

STAGE = STAGES["generate"]

app = typer.Typer()


@app.command()
def generate(
    run_dir: RunArgument,
    preset: PresetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    force: ForceOption = False,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Make only the I-th of N shares, beside other processes or machines that share "
            "the run's disk; the last to end finishes the stage.",
        ),
    ] = None,
    verbose: VerboseOption = False,
) -> None:
    """Let the teacher write conversations with log-probabilities."""
    set_up_logging(verbose=verbose)
    choice, run_directory = choice_of(preset, config, overrides), RunDirectory(run_dir)
    if shard is None:
        run_stage(STAGE, choice, run_directory, force=force)
    elif force:
        raise typer.BadParameter("give --force or --shard, not both: a shard is one of several")
    else:
        run_share(STAGE, choice, run_directory, shard)
