"""`potstill update` and `potstill versions`: the next version of a served student, and all of them.

Exit codes of `update` are those of `compare`: verdicts, and codes beside them for errors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE
from rich.table import Table

from potstill.commands.options import RunArgument, configured
from potstill.commands.verdicts import VerdictCommand, exit_with
from potstill.errors import PotstillError
from potstill.pipeline import Choice
from potstill.progress import set_up_logging
from potstill.rundir import RunDirectory
from potstill.terminal import echo, show
from potstill.update import Wanted
from potstill.update import update as make_version
from potstill.versions import (
    Version,
    Versions,
    counts_in_words,
    read_versions,
    roll_back,
    row_of,
    run_of,
    serve_version,
)

HEADINGS = ("version", "run", "from", "verdict", "learned from", "served")
WHOLE = HEADINGS[:4]
"""Columns that are not folded."""

app = typer.Typer()


@app.command(cls=VerdictCommand)
@configured
def update(
    run_directory: RunDirectory,
    choice: Choice,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="NEXT", help="Directory of the next run; default: RUN-v and a number."
        ),
    ] = None,
    most: Annotated[
        int, typer.Option(min=1, metavar="N", help="Use the newest N failures of each kind.")
    ] = 1000,
    recent: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Also the newest N recorded requests, whatever their answers."
        ),
    ] = 0,
    accept: Annotated[
        bool, typer.Option("--accept", help="Serve it whatever its verdict is.")
    ] = False,
    rollback: Annotated[
        bool,
        typer.Option("--rollback", help="Make no version; serve the one before the served one."),
    ] = False,
) -> None:
    """Make the next version of RUN's student from its recorded failures, and serve it if it passes.

    The teacher answers these requests again. The next student is trained from the served one, and
    compared with it and with the teacher. Running servers of RUN switch without dropping a request.

    Exit codes: those of `compare`; 0 also after --rollback.
    """
    run_directory.require_run()
    if rollback:
        version = roll_back(run_directory)
        echo(f"version {version.number} is served: {run_of(version, run_directory).root}")
        return
    outcome = make_version(choice, run_directory, Wanted(to, most, recent), accept=accept)
    show(versions_table(read_versions(run_directory), run_directory))
    raise exit_with(outcome)


@app.command()
def versions(
    run_dir: RunArgument,
    serve: Annotated[
        int | None,
        typer.Option(metavar="N", help="Serve this version from now on, whatever its verdict."),
    ] = None,
) -> None:
    """Show the versions of RUN's student, and which one is served."""
    set_up_logging(verbose=False)
    run_directory = RunDirectory(run_dir)
    if serve is not None:
        serve_version(run_directory, serve, "chosen")
    show(versions_table(read_versions(run_directory), run_directory))


def versions_table(found: Versions, run_directory: RunDirectory) -> Table:
    """Return the versions as a table, the first one first."""
    table = Table(title=str(run_directory.root), title_justify="left", box=SIMPLE, expand=True)
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold", no_wrap=heading in WHOLE)
    for version in found.versions:
        table.add_row(*_cells(version, found, run_directory))
    return table


def _cells(version: Version, found: Versions, run_directory: RunDirectory) -> tuple[str, ...]:
    own = run_of(version, run_directory)
    try:
        row = row_of(own)
    except PotstillError:
        learned, verdict = "", "its run is gone"
    else:
        learned = counts_in_words(row.num_prompts)
        verdict = (row.outcome or "none").replace("_", " ")
    times = ["at first"] if version.parent is None else []
    times += [_short(one.at) for one in found.switches if one.number == version.number]
    now = " (now)" if version == found.current else ""
    return (
        str(version.number),
        own.root.resolve().name,
        "" if version.parent is None else str(version.parent),
        verdict,
        learned,
        ", ".join(times) + now,
    )


def _short(time: str) -> str:
    return time[:16].replace("T", " ")
