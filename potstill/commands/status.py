"""`potstill status`: the stages of a run and their facts."""

from __future__ import annotations

import typer
from rich.console import Console

from potstill.commands.options import RunArgument
from potstill.errors import ArtifactError
from potstill.facts.base import STAGE_NAMES
from potstill.rundir import RunDirectory
from potstill.status import status_table

app = typer.Typer()


@app.command()
def status(run_dir: RunArgument) -> None:
    """Show the stages of a run and their facts."""
    run_directory = RunDirectory(run_dir)
    if not any(
        path.exists()
        for stage in STAGE_NAMES
        for path in (run_directory.stage_dir(stage), run_directory.partial_dir(stage))
    ):
        raise ArtifactError(
            "there is no run in this directory",
            where=run_dir,
            expected=f"a directory with one of {', '.join(STAGE_NAMES)}",
            hint="potstill run makes one",
        )
    Console().print(status_table(run_directory))
