"""`potstill run`: all stages in order, or what they would cost."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from potstill.commands.options import (
    ConfigOption,
    ForceOption,
    PresetOption,
    SetOption,
    VerboseOption,
    choice_of,
)
from potstill.pipeline import plan, run_pipeline
from potstill.progress import set_up_logging
from potstill.rundir import RunDirectory
from potstill.terminal import echo, show
from potstill.watch import watched

RUNS_DIR = Path("runs")

app = typer.Typer()


@app.command()
def run(
    run_dir: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN", help="Directory of the run; by default runs/ and the preset's name."
        ),
    ] = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    force: ForceOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the estimated cost and exit.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Serve a page about the run on loopback while it runs.")
    ] = False,
    verbose: VerboseOption = False,
) -> None:
    """Run all stages in order: generate, train, quantize, compare.

    Finished stages are skipped, and an interrupted one is resumed.
    """
    set_up_logging(verbose=verbose)
    name = preset or (config.stem if config else "default")
    run_directory = RunDirectory(run_dir or RUNS_DIR / name)
    choice = choice_of(preset, config, overrides)
    if dry_run:
        show(plan(choice, run_directory, force=force))
        return
    options = ["--verbose"] if verbose else []
    with watched(run_directory) if watch else nullcontext() as address:
        if address:
            echo(f"watch it on {address}")
        code = run_pipeline(choice, run_directory, force=force, options=options)
    if code != 0:
        raise typer.Exit(code)
    logging.getLogger(__name__).info("serve it with: potstill serve %s", run_directory.root)
