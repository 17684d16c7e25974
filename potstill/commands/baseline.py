"""`potstill baseline` and `potstill curve`: what the teacher brings, and what more data would."""

from __future__ import annotations

import typer

from potstill.baseline import make_baseline
from potstill.commands.options import ForceOption, configured
from potstill.curve import in_words, make_curve
from potstill.facts.curve import CurveFacts
from potstill.pipeline import Choice
from potstill.rundir import RunDirectory
from potstill.terminal import echo

app = typer.Typer()


@app.command()
@configured
def baseline(run_directory: RunDirectory, choice: Choice, force: ForceOption = False) -> None:
    """Train the student on the known answers alone, without a teacher, for comparison."""
    run_directory.require_run()
    make_baseline(choice, run_directory, force=force)


@app.command()
@configured
def curve(run_directory: RunDirectory, choice: Choice, force: ForceOption = False) -> None:
    """Train on shares of the data, and project what more data would bring."""
    run_directory.require_run()
    facts = make_curve(choice, run_directory, force=force).facts
    if isinstance(facts, CurveFacts):
        for line in in_words(facts):
            echo(line)
