"""`potstill watch`: a page about a run in progress."""

from __future__ import annotations

from typing import Annotated

import typer

from potstill.commands.options import RunArgument, VerboseOption
from potstill.errors import ConfigError
from potstill.loopback import new_token, serve_until_interrupted
from potstill.progress import set_up_logging
from potstill.rundir import RunDirectory
from potstill.watch import PORT, server_of

app = typer.Typer()


@app.command()
def watch(
    run_dir: RunArgument,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = PORT,
    verbose: VerboseOption = False,
) -> None:
    """Serve a page about a run in progress: stages, progress, curves, samples."""
    set_up_logging(verbose=verbose)
    if not run_dir.is_dir():
        raise ConfigError("there is no such run", where=run_dir, hint="potstill run makes one")
    token = new_token()
    serve_until_interrupted(server_of(RunDirectory(run_dir), port, token), f"?token={token}")
