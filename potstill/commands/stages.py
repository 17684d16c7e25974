"""Verbs that run one stage: `train` and `serve`, which take no options of their own, and `stage`.

`potstill run` starts each stage as `potstill stage NAME RUN` in a process of its own: whatever exit
codes the stage's own verb has, this one has those of every command.
"""

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

app = typer.Typer()


@app.command(hidden=True)
def stage(
    name: Annotated[str, typer.Argument(metavar="STAGE")],
    run_dir: RunArgument,
    preset: PresetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    force: ForceOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Run a stage by its name."""
    set_up_logging(verbose=verbose)
    choice = choice_of(preset, config, overrides)
    run_stage(STAGES[name], choice, RunDirectory(run_dir), force=force)


@app.command()
def train(
    run_dir: RunArgument,
    preset: PresetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    force: ForceOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Train a student on the conversations."""
    stage("train", run_dir, preset, config, overrides, force, verbose)


@app.command()
def serve(
    run_dir: RunArgument,
    preset: PresetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Serve student and teacher over OpenAI's API."""
    stage("serve", run_dir, preset, config, overrides, False, verbose)
