"""The command line: `potstill run`, one command a stage, and `potstill status`.

In: arguments. Out: exit codes: 0 done, 1 our error, 2 wrong usage, 130 interrupted; of `compare`,
whose verdict is its code, those of `potstill.pipeline`. Every error of ours is printed without a
traceback. Imports no stage before it runs.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module, metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperCommand

from potstill.config import preset_names
from potstill.errors import ArtifactError, ConfigError, PotstillError
from potstill.pipeline import (
    COMPARE,
    COMPARE_ERROR,
    COMPARE_USAGE,
    PIPELINE,
    SERVE,
    Choice,
    Stage,
    plan,
    resolve,
    run_pipeline,
    run_share,
    run_stage,
)
from potstill.progress import set_up_logging
from potstill.rundir import STAGE_NAMES, RunDirectory
from potstill.status import status_table
from potstill.verdict.outcome import Outcome

OUR_ERROR, WRONG_USAGE = 1, 2
RUNS_DIR = Path("runs")
QUANTIZE = PIPELINE[2]

app = typer.Typer(
    help="Distil a large chat model into a small, cheap one, and see how close it came.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

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
    typer.Option("--force", help="Make anew what is finished or begun; leave it out to go on."),
]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Show debugging messages.")]


@app.command()
def run(
    run_dir: Annotated[
        Path | None,
        typer.Argument(metavar="[RUN]", help="Directory of the run; runs/NAME of the preset."),
    ] = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    force: ForceOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what it would cost, and do nothing.")
    ] = False,
    verbose: VerboseOption = False,
) -> None:
    """Run all stages in order: generate, train, quantize, compare.

    Finished stages are skipped; an interrupted one goes on where it was cut off.
    """
    set_up_logging(verbose=verbose)
    name = preset or (config.stem if config else "default")
    run_directory = RunDirectory(run_dir or RUNS_DIR / name)
    choice = _choice(preset, config, overrides)
    if dry_run:
        Console().print(plan(choice, run_directory, force=force))
        return
    options = ["--verbose"] if verbose else []
    code = run_pipeline(choice, run_directory, force=force, options=options)
    if code != 0:
        raise typer.Exit(code)
    logging.getLogger(__name__).info("serve it with: potstill serve %s", run_directory.root)


def _stage_command(stage: Stage) -> Callable[..., None]:
    def command(
        run_dir: RunArgument,
        preset: PresetOption = None,
        config: ConfigOption = None,
        overrides: SetOption = None,
        force: ForceOption = False,
        verbose: VerboseOption = False,
    ) -> None:
        set_up_logging(verbose=verbose)
        choice = _choice(preset, config, overrides)
        run_stage(stage, choice, RunDirectory(run_dir), force=force)

    return command


@app.command("generate", help=PIPELINE[0].summary)
def _generate(
    run_dir: RunArgument,
    preset: PresetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    force: ForceOption = False,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Make only the I-th of N shares, beside other processes or machines that share "
            "the run's disk; the last to end finishes the stage.",
        ),
    ] = None,
    verbose: VerboseOption = False,
) -> None:
    set_up_logging(verbose=verbose)
    choice, run_directory = _choice(preset, config, overrides), RunDirectory(run_dir)
    if shard is None:
        run_stage(PIPELINE[0], choice, run_directory, force=force)
    elif force:
        raise typer.BadParameter("give --force or --shard, not both: a shard is one of several")
    else:
        run_share(PIPELINE[0], choice, run_directory, shard)


@contextmanager
def _codes_beside_verdicts() -> Iterator[None]:
    """Give errors exit codes that are no verdict."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except typer.TyperException as error:
        if getattr(error, "exit_code", None) == WRONG_USAGE:
            error.exit_code = COMPARE_USAGE
        raise
    except ConfigError as error:
        error.exit_code = COMPARE_USAGE
        raise
    except Exception as error:
        error.exit_code = COMPARE_ERROR  # type: ignore[attr-defined]
        raise


class _CompareCommand(TyperCommand):
    def make_context(self, *args: Any, **extra: Any) -> Any:  # noqa: ANN401  (as the base has it)
        with _codes_beside_verdicts():
            return super().make_context(*args, **extra)

    def invoke(self, *args: Any, **extra: Any) -> Any:  # noqa: ANN401  (as the base has it)
        with _codes_beside_verdicts():
            return super().invoke(*args, **extra)


@app.command("compare", cls=_CompareCommand)
def _compare(
    run_dir: RunArgument,
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
            metavar="FILE|RUN", help="JSONL file of prompts, or a run whose test split is asked."
        ),
    ] = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    force: ForceOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Compare student and teacher: may the student replace it?

    With --student, --teacher and --prompts no run is needed: RUN is where the report goes.

    Exit codes: 0 PASS, 1 FAIL, 2 INCONCLUSIVE, 3 INVALID JUDGE; 64 wrong usage or configuration,
    70 any other error, 130 interrupted.
    """
    set_up_logging(verbose=verbose)
    given = [
        *_endpoint_overrides("student", student),
        *_endpoint_overrides("teacher", teacher),
        *([] if prompts is None else [f"compare.prompts={json.dumps(str(prompts))}"]),
    ]
    choice = _choice(preset, config, [*(overrides or ()), *given])
    manifest = run_stage(COMPARE, choice, RunDirectory(run_dir), force=force)
    raise typer.Exit(Outcome(manifest.facts["outcome"]).exit_code)


def _endpoint_overrides(side: str, given: str | None) -> list[str]:
    """Return the settings that `URL#MODEL` stands for."""
    if given is None:
        return []
    url, _, model = given.partition("#")
    values = {"base_url": url} | ({"model": model} if model else {})
    return [f"compare.{side}.{key}={json.dumps(value)}" for key, value in values.items()]


@app.command("experiment", cls=_CompareCommand)
def _experiment(
    run_dir: RunArgument,
    url: Annotated[
        str,
        typer.Argument(metavar="URL[#NAME]", help="Server, such as http://127.0.0.1:8000/v1."),
    ],
    quiet_seconds: Annotated[
        float,
        typer.Option(min=0, help="How long a conversation must have been silent to be judged."),
    ] = 600.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print all results as JSON.")] = False,
    preset: PresetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Judge the new pairs of a live experiment: may the student replace the teacher?

    The judges are those of RUN's [compare] table, and what they say is kept in RUN. The verdict is
    valid however often this is asked. The server's key is POTSTILL_API_KEY.

    Exit codes: those of `compare`.
    """
    set_up_logging(verbose=verbose)
    run_directory = RunDirectory(run_dir)
    table = resolve(_choice(preset, config, overrides), run_directory)[COMPARE.name]
    base_url, _, name = url.partition("#")
    outcome: Outcome = import_module("compare.live.experiment").run(
        table, run_directory, base_url, name or None, quiet_seconds=quiet_seconds, as_json=as_json
    )
    raise typer.Exit(outcome.exit_code)


@app.command("cascade", cls=_CompareCommand)
def _cascade(
    run_dir: RunArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    preset: PresetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Fit the confidence below which the teacher takes over from the student.

    RUN's comparison must be finished. Half of its prompts are fitted on, the other half tells
    whether student and teacher together are no worse than the teacher by more than the margin.

    Exit codes: those of `compare`.
    """
    set_up_logging(verbose=verbose)
    run_directory = RunDirectory(run_dir)
    table = resolve(_choice(preset, config, overrides), run_directory)[COMPARE.name]
    outcome: Outcome = import_module("compare.live.cascade").run(
        table, run_directory, as_json=as_json
    )
    raise typer.Exit(outcome.exit_code)


def _quantize(
    run_dir: RunArgument,
    preset: PresetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    force: ForceOption = False,
    target_megabytes: Annotated[
        list[float] | None,
        typer.Option(
            metavar="MB",
            help="Make a file of at most so many million bytes too, whose tensors have the types "
            "that keep it nearest to the student; may be repeated.",
        ),
    ] = None,
    verbose: VerboseOption = False,
) -> None:
    if target_megabytes:
        overrides = [*(overrides or ()), f"quantize.target_megabytes={target_megabytes}"]
    _stage_command(QUANTIZE)(run_dir, preset, config, overrides, force, verbose)


for _stage in (*PIPELINE[1:-1], SERVE):
    _command = _quantize if _stage is QUANTIZE else _stage_command(_stage)
    app.command(_stage.name, help=_stage.summary)(_command)


@app.command()
def status(run_dir: RunArgument) -> None:
    """Show what a run has: its stages and their facts."""
    run_directory = RunDirectory(run_dir)
    if not any(
        path.exists()
        for stage in STAGE_NAMES
        for path in (run_directory.stage_dir(stage), run_directory.partial_dir(stage))
    ):
        raise ArtifactError(
            "there is no run here",
            where=run_dir,
            expected=f"a directory with one of {', '.join(STAGE_NAMES)}",
            hint="potstill run makes one",
        )
    Console().print(status_table(run_directory))


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
    """Hold the options that belong to no command."""


def _choice(preset: str | None, config: Path | None, overrides: list[str] | None) -> Choice:
    if preset is not None and config is not None:
        raise typer.BadParameter("give --preset or --config, not both")
    return Choice(preset, config, tuple(overrides or ()))


def main() -> None:
    """Run the command line; print an error of ours as text and exit with its code."""
    try:
        app()
    except PotstillError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201  (stderr is for this)
        sys.exit(error.exit_code)
    except Exception as error:
        logging.getLogger(__name__).debug("the traceback", exc_info=True)
        print(  # noqa: T201
            f"error: {type(error).__name__}: {error}\n"
            "  hint: this is a defect of potstill; --verbose shows where it happened",
            file=sys.stderr,
        )
        sys.exit(getattr(error, "exit_code", OUR_ERROR))
