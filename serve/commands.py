"""The verb `serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from potstill.commands.options import (
    ConfigOption,
    PresetOption,
    SetOption,
    VerboseOption,
    choice_of,
)
from potstill.pipeline import STAGES, resolve, run_stage
from potstill.progress import set_up_logging
from potstill.rundir import RunDirectory

app = typer.Typer()

WhatArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUN|FILE...", help="A run, or GGUF files and directories that contain some."
    ),
]


@app.command()
def serve(
    what: WhatArgument,
    preset: PresetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Serve a run's student and teacher, or any GGUF files, over OpenAI's API."""
    set_up_logging(verbose=verbose)
    choice, stage = choice_of(preset, config, overrides), STAGES["serve"]
    if _is_run(what):
        run_stage(stage, choice, RunDirectory(what[0]))
    else:
        stage.call("stage", "run_files", resolve(choice)[stage.name], what)


def _is_run(what: list[Path]) -> bool:
    (first, *others) = what
    holds_files = first.is_dir() and any(first.glob("*.gguf"))
    return not (others or holds_files or first.suffix == ".gguf")
