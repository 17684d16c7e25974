"""Arguments and options that several verbs take, and the configuration they select.

In: nothing. Out: annotations for Typer, and `choice_of`, which checks what they hold.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from potstill.config import preset_names
from potstill.pipeline import Choice

RunArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="Directory of the run, such as runs/mine.")
]
PresetOption = Annotated[
    str | None,
    typer.Option("--preset", metavar="NAME", help=f"One of {', '.join(preset_names())}."),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="TOML file with settings.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Override one setting; may be repeated."),
]
ForceOption = Annotated[
    bool,
    typer.Option("--force", help="Discard finished or partial results; without it, resume."),
]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Show debugging messages.")]


def choice_of(preset: str | None, config: Path | None, overrides: list[str] | None) -> Choice:
    """Return the configuration that the options select.

    Raises:
        BadParameter: Both a preset and a file were given.
    """
    if preset is not None and config is not None:
        raise typer.BadParameter("give --preset or --config, not both")
    return Choice(preset, config, tuple(overrides or ()))
