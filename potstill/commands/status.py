"""`potstill status`: the stages of a run and their facts."""

from __future__ import annotations

import typer

from potstill.commands.options import RunArgument
from potstill.rundir import RunDirectory
from potstill.status import status_table
from potstill.terminal import show

app = typer.Typer()


@app.command()
def status(run_dir: RunArgument) -> None:
    """Show the stages of a run and their facts."""
    run_directory = RunDirectory(run_dir)
    run_directory.require_run()
    show(status_table(run_directory))
