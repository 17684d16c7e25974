"""`potstill status`: the stages of a run and their facts."""

from __future__ import annotations

import typer
from rich.console import Console

from potstill.commands.options import RunArgument
from potstill.rundir import RunDirectory
from potstill.status import status_table

app = typer.Typer()


@app.command()
def status(run_dir: RunArgument) -> None:
    """Show the stages of a run and their facts."""
    run_directory = RunDirectory(run_dir)
    run_directory.require_run()
    Console().print(status_table(run_directory))
