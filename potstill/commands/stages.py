"""Verbs that run one stage: `train`, which takes no options of its own, and `stage`.

`potstill run` starts each stage as `potstill stage RUN NAME` in a process of its own. Unlike the
verb of its stage, `stage` has no exit codes of its own.
"""

from __future__ import annotations

from typing import Annotated

import typer

from potstill import former_names
from potstill.commands.options import ForceOption, configured
from potstill.pipeline import STAGES, Choice, run_stage
from potstill.rundir import RunDirectory

app = typer.Typer()


@app.command(hidden=True)
@configured
def stage(
    run_directory: RunDirectory,
    choice: Choice,
    name: Annotated[str, typer.Argument(metavar="STAGE")],
    force: ForceOption = False,
) -> None:
    """Run a stage by its name."""
    with former_names.reported_by_parent():
        run_stage(STAGES[name], choice, run_directory, force=force)


@app.command()
@configured
def train(run_directory: RunDirectory, choice: Choice, force: ForceOption = False) -> None:
    """Train a student on the conversations."""
    run_stage(STAGES["train"], choice, run_directory, force=force, goes_on=True)
