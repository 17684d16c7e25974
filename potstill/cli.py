"""The command line: finds the module of a verb, and prints errors.

In: arguments. Out: exit codes: 0 done, 1 an error of potstill, 2 wrong usage, 130 interrupted. A
stage's verb may have others, such as a verdict. Every `PotstillError` is printed without a
traceback. A verb's module is imported when the verb is named (all of them for `--help`), so heavy
libraries are imported inside functions only.
"""

from __future__ import annotations

import errno
import logging
import sys
from importlib import import_module, metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

from potstill.errors import PotstillError
from potstill.files import FULL_HINT
from potstill.terminal import printable

OUR_ERROR = 1
VERBS = {
    "init": "generate.commands",
    "import": "generate.commands",
    "plan": "compare.commands",
    "run": "potstill.commands.run",
    "generate": "generate.commands",
    "train": "potstill.commands.stages",
    "quantize": "quantize.commands",
    "compare": "compare.commands",
    "serve": "serve.commands",
    "chat": "serve.commands",
    "experiment": "compare.commands",
    "cascade": "compare.commands",
    "label": "compare.commands",
    "baseline": "potstill.commands.baseline",
    "curve": "potstill.commands.baseline",
    "status": "potstill.commands.status",
    "watch": "potstill.commands.watch",
    "review": "generate.commands",
    "update": "potstill.commands.update",
    "versions": "potstill.commands.update",
    "lineage": "potstill.commands.lineage",
    "export": "quantize.commands",
    "push": "quantize.commands",
    "fetch": "potstill.commands.fetch",
    "doctor": "potstill.commands.doctor",
}
"""The module whose `app`, a `typer.Typer`, has the command of each verb, in the order of help."""
HIDDEN_VERBS = {"stage": "potstill.commands.stages"}
"""Verbs that `--help` does not list."""


class Verbs(TyperGroup):
    """A group of commands whose modules are imported on demand."""

    def __init__(self, **attrs: Any) -> None:  # noqa: ANN401  (as the base has it)
        super().__init__(**attrs)
        self.commands = dict.fromkeys(VERBS, typer.core.TyperCommand("not loaded"))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401, ARG002
        """Return the command of a verb; None if there is no such verb."""
        module = (VERBS | HIDDEN_VERBS).get(cmd_name)
        if module is None:
            return None
        command = get_group(import_module(module).app).commands[cmd_name]
        command.help = _unwrapped(command.help or "")
        return command


def _unwrapped(text: str) -> str:
    """Return a help text with one line a paragraph, for the terminal to break."""
    return "\n\n".join(" ".join(one.split()) for one in text.split("\n\n"))


DEFECT = "this is a defect of potstill; --verbose shows where it happened"
FULL_GPU = (
    "the GPU's memory is short: nvidia-smi shows what else takes some, docs/how-to/gpu.md what "
    "makes a stage smaller; run the same command again to resume"
)
"""For the error of torch, which the command line does not import."""

app = typer.Typer(
    cls=Verbs,
    help="Distill a large chat model into a small one, and measure whether the small one can "
    "replace it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(metadata.version("potstill"))
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Define the options of the command line itself."""


def main() -> None:
    """Run the command line; print a `PotstillError` as text and exit with its code."""
    try:
        app()
    except PotstillError as error:
        # It may quote a server or a file.
        print(printable(f"error: {error}"), file=sys.stderr)  # noqa: T201  (stderr is for this)
        sys.exit(error.exit_code)
    except Exception as error:
        logging.getLogger(__name__).debug("the traceback", exc_info=True)
        text = f"error: {type(error).__name__}: {error}\n  hint: {_hint(error)}"
        print(printable(text), file=sys.stderr)  # noqa: T201
        sys.exit(getattr(error, "exit_code", OUR_ERROR))


def _hint(error: Exception) -> str:
    """Return what helps where an error is not ours."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FULL_HINT
    return FULL_GPU if type(error).__name__ == "OutOfMemoryError" else DEFECT
