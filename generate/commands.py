"""The verbs `potstill generate`, `init`, `import` and `review`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from generate.init.files import CONFIG_NAME, run_path, template_names
from potstill.commands.options import ForceOption, VerboseOption, configured
from potstill.errors import PotstillError
from potstill.loopback import serve_until_interrupted
from potstill.pipeline import STAGES, Choice, plan, run_share, run_stage
from potstill.progress import set_up_logging
from potstill.rundir import RunDirectory
from potstill.terminal import echo, show

STAGE = STAGES["generate"]

app = typer.Typer()


@app.command()
@configured
def generate(
    run_directory: RunDirectory,
    choice: Choice,
    force: ForceOption = False,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Make only the I-th of N shares, beside other processes or machines that share "
            "the run's disk; the last to end finishes the stage.",
        ),
    ] = None,
) -> None:
    """Sample the teacher's conversations with log-probabilities."""
    if shard is None:
        run_stage(STAGE, choice, run_directory, force=force)
    elif force:
        raise typer.BadParameter("give --force or --shard, not both: a shard is one of several")
    else:
        run_share(STAGE, choice, run_directory, shard)


@app.command()
def init(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Directory for the configuration and its files.")
    ],
    like: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSONL or CSV file of examples to make the task from."),
    ] = None,
    messages: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Messages for the teacher to answer; without them, the teacher writes its own.",
        ),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"One of {', '.join(template_names())}."),
    ] = None,
    about: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="The job in a sentence, for the teacher's instructions."),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="A name, a checkpoint or a GGUF file."),
    ] = None,
    test_share: Annotated[
        float,
        typer.Option(
            min=0.0, max=0.9, help="Share of the known answers to keep aside as references."
        ),
    ] = 0.3,
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    verbose: VerboseOption = False,
) -> None:
    """Write a task's configuration, from a template or from examples.

    In a terminal it asks for the parts of a task that no option gives.
    """
    from generate.init.make import Wanted, make
    from generate.init.questions import ask

    set_up_logging(verbose=verbose)
    wanted = Wanted(directory, like, template, test_share, seed, force, about, teacher, messages)
    if sys.stdin.isatty() and like is None and template is None:
        wanted = ask(wanted)
    for line in make(wanted):
        echo(line)
    config_path, run = directory / CONFIG_NAME, run_path(directory)
    echo(f"wrote {config_path}")
    try:
        table = plan(Choice(path=config_path), RunDirectory(Path(run)), force=True)
    except PotstillError as error:
        echo(f"the cost of a run is not known yet: {error}")
    else:
        show(table)
    command = shlex.join(["potstill", "run", run, "--config", str(config_path)])
    echo(f"next: edit {config_path}, then {command}")


@app.command(name="import")
def import_traces(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Logs, traces or exports: files, directories, patterns or URLs, as in a source "
            "of prompts.",
        ),
    ],
    to: Annotated[
        Path, typer.Option("--to", metavar="FILE", help="JSONL file to write the requests to.")
    ],
    inspect: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="HTML page to write, with a summary of the requests."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="TOML file whose task judges the answers on the page."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    verbose: VerboseOption = False,
) -> None:
    """Read model requests from traces of other tools, as a source of prompts."""
    from generate.imports.make import import_traces as run

    set_up_logging(verbose=verbose)
    for line in run(paths, to, page_path=inspect, config_path=config, force=force):
        echo(line)


@app.command()
def review(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|FILE", help="Directory of a run, or a JSONL file of examples or traces."
        ),
    ],
    apply: Annotated[
        bool,
        typer.Option(
            "--apply",
            help="Write the decisions to the task's examples and references, or into FILE; serve "
            "no page.",
        ),
    ] = False,
    reviewer: Annotated[
        str, typer.Option(metavar="NAME", envvar="USER", help="Name of the reviewer.")
    ] = "reviewer",
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TOML file with the task; default: that of the run without its functions, none "
            "for a FILE.",
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8011,
    verbose: VerboseOption = False,
) -> None:
    """Serve a page to accept, edit, reject and label answers of a run or a file.

    Decisions are stored at once, beside the run or file. The next `potstill run` uses them.
    """
    from generate.review import make
    from generate.review.page import Review, server_of

    set_up_logging(verbose=verbose)
    if apply:
        for line in make.apply(path, config):
            echo(line)
        return
    reviewed = Review(make.find_subject(path, config), reviewer)
    serve_until_interrupted(server_of(reviewed, port), f"?token={reviewed.token}")
    reviewed.log.wait()
    for line in make.sentences(reviewed, path):
        echo(line)
