"""`potstill lineage`: where a file or a run comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from potstill.lineage import lineage_of_run, read_lineage
from potstill.rundir import RunDirectory
from potstill.terminal import echo

app = typer.Typer()


@app.command()
def lineage(
    path: Annotated[
        Path, typer.Argument(metavar="FILE|RUN", help="A student's GGUF file, or a run.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show where a student comes from: prompts, teacher, code and verdict.

    A file contains its lineage, so its run is not needed.
    """
    found = lineage_of_run(RunDirectory(path)) if path.is_dir() else read_lineage(path)
    if as_json:
        echo(found.document.rstrip())
        return
    for line in found.lines():
        echo(line)
