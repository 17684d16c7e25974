"""`potstill baseline`: the student trained on the known answers alone."""

from __future__ import annotations

import typer

from potstill.baseline import make_baseline
from potstill.commands.options import ForceOption, configured
from potstill.pipeline import Choice
from potstill.rundir import RunDirectory

app = typer.Typer()


@app.command()
@configured
def baseline(run_directory: RunDirectory, choice: Choice, force: ForceOption = False) -> None:
    """Train the student on the known answers alone, without a teacher, to compare with."""
    make_baseline(choice, run_directory, force=force)
