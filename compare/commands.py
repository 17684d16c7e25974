"""The verbs `potstill compare`, `plan`, `experiment`, `cascade` and `label`.

Exit codes of `compare`, `experiment` and `cascade` are verdicts.
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer

from potstill.commands.options import ForceOption, configured
from potstill.commands.verdicts import VerdictCommand, exit_with
from potstill.facts.comparison import ComparisonFacts
from potstill.pipeline import STAGES, Choice, resolve, run_stage
from potstill.rundir import RunDirectory
from potstill.terminal import echo, show
from potstill.verdict.outcome import Outcome

STAGE = STAGES["compare"]
app = typer.Typer()


@app.command(cls=VerdictCommand)
@configured
def compare(
    run_directory: RunDirectory,
    choice: Choice,
    student: Annotated[
        str | None,
        typer.Option(
            metavar="URL[#MODEL]", help="Where the student is served, instead of the run's file."
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="URL[#MODEL]", help="Where the teacher is served, instead of the run's file."
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|RUN", help="JSONL file of prompts, or a run whose test split is used."
        ),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Compare student and teacher: can the student replace the teacher?

    With --student, --teacher and --prompts no run is needed: the report is written to RUN.

    Exit codes: 0 PASS, 1 FAIL, 2 INCONCLUSIVE, 3 INVALID JUDGE; 64 wrong usage or configuration,
    70 any other error, 130 interrupted.
    """
    given = [
        *_endpoint_overrides("student", student),
        *_endpoint_overrides("teacher", teacher),
        *([] if prompts is None else [f"compare.prompts={json.dumps(str(prompts))}"]),
    ]
    choice = replace(choice, overrides=(*choice.overrides, *given))
    table: Any = resolve(choice, run_directory)[STAGE.name]
    run_stage(STAGE, choice, run_directory, force=force, goes_on=table.needs_run)
    raise exit_with(Outcome(run_directory.facts(ComparisonFacts).outcome))


def _endpoint_overrides(side: str, given: str | None) -> list[str]:
    """Return the settings that `URL#MODEL` stands for."""
    if given is None:
        return []
    url, _, model = given.partition("#")
    values = {"base_url": url} | ({"model": model} if model else {})
    return [f"compare.{side}.{key}={json.dumps(value)}" for key, value in values.items()]


@app.command()
@configured
def plan(
    run_directory: RunDirectory,
    choice: Choice,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|KIND", help='A configured judge, or "metric"; default: the deciding one.'
        ),
    ] = None,
    power: Annotated[
        float | None, typer.Option(help="Probability of PASS for a student equal to its teacher.")
    ] = None,
    ties: Annotated[
        float | None, typer.Option(help="Share of prompts with the same score on both sides.")
    ] = None,
    cluster_size: Annotated[
        float | None, typer.Option(help="Mean number of similar prompts in a cluster.")
    ] = None,
    sensitivity: Annotated[
        float | None, typer.Option(help="Share of people's preference that the judge shows.")
    ] = None,
) -> None:
    """Print how many prompts and people's votes a verdict needs, and what it will cost.

    Options that are not given come from RUN's finished comparison by the same judge, or
    otherwise from the table compare.plan.
    """
    from compare.planning import plan_comparison

    given = {
        "power": power,
        "tie_share": ties,
        "cluster_size": cluster_size,
        "sensitivity": sensitivity,
    }
    overrides = [
        f"compare.plan.{name}={value}" for name, value in given.items() if value is not None
    ]
    choice = replace(choice, overrides=(*choice.overrides, *overrides))
    show(plan_comparison(choice, run_directory, judge))


@app.command(cls=VerdictCommand)
@configured
def experiment(
    run_directory: RunDirectory,
    choice: Choice,
    url: Annotated[
        str,
        typer.Argument(metavar="URL[#NAME]", help="Server, such as http://127.0.0.1:8000/v1."),
    ],
    quiet_seconds: Annotated[
        float,
        typer.Option(min=0, help="Judge conversations without a message for this many seconds."),
    ] = 600.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print all results as JSON.")] = False,
) -> None:
    """Judge the new pairs of a live experiment: can the student replace the teacher?

    RUN's configuration names the judges, and their judgments are cached in RUN. The verdict is
    valid however often this command runs; PASS needs people's blind votes, and a PASS by another
    judge is reported as INCONCLUSIVE. The server's key is POTSTILL_API_KEY.

    Exit codes: those of `compare`.
    """
    from compare.live.experiment import run

    table: Any = resolve(choice, run_directory)[STAGE.name]
    base_url, _, name = url.partition("#")
    outcome = run(
        table, run_directory, base_url, name or None, quiet_seconds=quiet_seconds, as_json=as_json
    )
    raise exit_with(outcome)


@app.command(cls=VerdictCommand)
@configured
def cascade(
    run_directory: RunDirectory,
    choice: Choice,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Fit the confidence below which the teacher answers instead of the student.

    RUN's comparison must be finished. The threshold is fitted on half of its prompts; the other
    half tests whether student and teacher together are non-inferior to the teacher.

    Exit codes: those of `compare`.
    """
    from compare.live.cascade import run

    table: Any = resolve(choice, run_directory)[STAGE.name]
    raise exit_with(run(table, run_directory, as_json=as_json))


@app.command()
@configured
def label(
    run_directory: RunDirectory,
    choice: Choice,
    labeler: Annotated[
        str, typer.Option(metavar="NAME", help="Your name; several people may label or vote.")
    ] = "",
) -> None:
    """Label answers of a finished comparison, or vote on pairs of them.

    Asks whether both models' answers meet each criterion of the first judge of kind "criteria",
    or, with a judge of kind "votes", which of two answers is better. It does not show which model
    wrote an answer. Each label or vote is stored at once in that judge's file;
    the next call continues where this one ended.
    """
    from compare.labeling import Terminal, collect_labels
    from compare.voting import collect_votes, vote_in_terminal

    run_directory.require_run()
    table: Any = resolve(choice, run_directory)[STAGE.name]
    kinds = {judge.kind for judge in table.judges}
    labels = collect_labels(table, run_directory, labeler, Terminal())
    votes = collect_votes(table, run_directory, labeler, vote_in_terminal)
    asked = [*([votes] if "votes" in kinds else []), *([labels] if "criteria" in kinds else [])]
    for sentence in chain(*(asked or [labels])):
        echo(f"\n{sentence}")
