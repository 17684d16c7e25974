"""Arguments and options that several verbs take, and the configuration that they select.

In: a verb's function. Out: the same with the shared arguments and options, for Typer.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import Signature, signature
from pathlib import Path
from typing import Annotated

import typer

from potstill.config import preset_names
from potstill.pipeline import Choice
from potstill.progress import set_up_logging
from potstill.rundir import RunDirectory

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


def configured(command: Callable[..., None]) -> Callable[..., None]:
    """Add RUN and the options of the configuration to a verb's own arguments and options.

    Args:
        command: Takes the run's directory, the configuration, and its own arguments and options.
    """

    def verb(
        run_dir: RunArgument,
        preset: PresetOption = None,
        config: ConfigOption = None,
        overrides: SetOption = None,
        verbose: VerboseOption = False,
        **own: object,
    ) -> None:
        set_up_logging(verbose=verbose)
        command(RunDirectory(run_dir), choice_of(preset, config, overrides), **own)

    run_dir, *shared, _ = signature(verb, eval_str=True).parameters.values()
    own = list(signature(command, eval_str=True).parameters.values())[2:]
    parameters = [run_dir, *own, *shared]
    verb.__name__, verb.__doc__ = command.__name__, command.__doc__
    verb.__annotations__ = {one.name: one.annotation for one in parameters}
    verb.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return verb
