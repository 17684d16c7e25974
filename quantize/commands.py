"""The verb `potstill quantize`."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from potstill.commands.options import ForceOption, configured
from potstill.pipeline import STAGES, Choice, run_stage
from potstill.rundir import RunDirectory

app = typer.Typer()


@app.command()
@configured
def quantize(
    run_directory: RunDirectory,
    choice: Choice,
    force: ForceOption = False,
    target_megabytes: Annotated[
        list[float] | None,
        typer.Option(
            metavar="MB",
            help="Also make a file of at most this many million bytes, whose tensor types keep it "
            "as close to the student as possible; may be repeated.",
        ),
    ] = None,
) -> None:
    """Convert student and teacher to GGUF files and verify each of them."""
    if target_megabytes:
        sizes = f"quantize.target_megabytes={target_megabytes}"
        choice = replace(choice, overrides=(*choice.overrides, sizes))
    run_stage(STAGES["quantize"], choice, run_directory, force=force)
