"""The verbs `potstill quantize`, `potstill export` and `potstill push`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from potstill.commands.options import ForceOption, RunArgument, configured
from potstill.pipeline import STAGES, Choice, run_stage
from potstill.rundir import RunDirectory
from potstill.terminal import echo

app = typer.Typer()


@app.command()
@configured
def quantize(
    run_directory: RunDirectory,
    choice: Choice,
    force: ForceOption = False,
    target_megabytes: Annotated[
        list[float] | None,
        typer.Option(
            metavar="MB",
            help="Also make a file of at most this many million bytes, whose tensor types keep it "
            "as close to the student as possible; may be repeated.",
        ),
    ] = None,
) -> None:
    """Convert student and teacher to GGUF files and verify each of them."""
    if target_megabytes:
        sizes = f"quantize.target_megabytes={target_megabytes}"
        choice = replace(choice, overrides=(*choice.overrides, sizes))
    run_stage(STAGES["quantize"], choice, run_directory, force=force, goes_on=True)


@app.command()
def export(
    run_dir: RunArgument,
    tool: Annotated[
        str,
        typer.Option(
            "--for", metavar="TOOL", help="ollama, lm-studio, llamafile, vllm, mlx, open-webui."
        ),
    ],
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A new directory; by default RUN-TOOL.")
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A student's file; by default the recommended one."),
    ] = None,
) -> None:
    """Write a directory for another tool, and print the commands to type."""
    from quantize.delivery.tools import export as write

    directory = to or Path(f"{run_dir.resolve().name}-{tool}")
    for line in write(RunDirectory(run_dir), tool, directory, file):
        echo(line)


@app.command()
def push(
    run_dir: RunArgument,
    to: Annotated[str, typer.Option(metavar="USER/NAME|DIR", help="A repository or a directory.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the files, and what forbids uploading them.")
    ] = False,
    public: Annotated[
        bool, typer.Option("--public", help="Make a new repository public, not private.")
    ] = False,
    license_checked: Annotated[
        bool,
        typer.Option("--license-checked", help="You checked a license that is not stated."),
    ] = False,
    memorization_checked: Annotated[
        bool,
        typer.Option("--memorization-checked", help="You read what the student has memorized."),
    ] = False,
) -> None:
    """Publish the student's files with card, importance matrix and lineage.

    A dry run ends with an error if something forbids the upload.
    """
    from quantize.delivery.push import prepare, refuse
    from quantize.delivery.push import push as publish
    from quantize.delivery.refusals import Checked

    shipment = prepare(RunDirectory(run_dir), to)
    given: dict[Checked, bool] = {
        "license": license_checked,
        "memorization": memorization_checked,
    }
    checked = [name for name, is_given in given.items() if is_given]
    if dry_run:
        for line in shipment.lines(checked):
            echo(line)
        refuse(shipment, checked)
        return
    echo(publish(shipment, private=not public, checked=checked))
