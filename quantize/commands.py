"""The verb `potstill quantize`."""

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
from potstill.pipeline import STAGES, run_stage
from potstill.progress import set_up_logging
from potstill.rundir import RunDirectory

STAGE = STAGES["quantize"]

app = typer.Typer()


@app.command()
def quantize(
    run_dir: RunArgument,
    preset: PresetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    force: ForceOption = False,
    target_megabytes: Annotated[
        list[float] | None,
        typer.Option(
            metavar="MB",
            help="Also make a file of at most this many million bytes, whose tensor types keep it "
            "as close to the student as possible; may be repeated.",
        ),
    ] = None,
    verbose: VerboseOption = False,
) -> None:
    """Convert student and teacher to GGUF files and verify each of them."""
    set_up_logging(verbose=verbose)
    if target_megabytes:
        overrides = [*(overrides or ()), f"quantize.target_megabytes={target_megabytes}"]
    choice = choice_of(preset, config, overrides)
    run_stage(STAGE, choice, RunDirectory(run_dir), force=force)
