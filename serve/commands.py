"""The verbs `serve` and `chat`."""

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


@app.command()
def chat(
    what: Annotated[
        str,
        typer.Argument(
            metavar="URL|RUN|FILE",
            help="A server, or what `potstill serve` would serve, which is started for the chat.",
        ),
    ] = "http://127.0.0.1:8000",
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="NAME",
            help="A model that answers; may be repeated. By default the first two.",
        ),
    ] = None,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Instructions for all models.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="The longest answer.")
    ] = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Chat with student and teacher side by side in the terminal; /help there lists commands."""
    set_up_logging(verbose=verbose)
    from serve.terminal.start import chat_with

    options = choice_of(preset, config, overrides).options()
    chat_with(what, models or [], system, max_tokens, options)


def _is_run(what: list[Path]) -> bool:
    (first, *others) = what
    holds_files = first.is_dir() and any(first.glob("*.gguf"))
    return not (others or holds_files or first.is_file() or first.suffix == ".gguf")
