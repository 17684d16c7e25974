"""`potstill watch`: a page about a run while it is made."""

from __future__ import annotations

from typing import Annotated

import typer

from potstill.commands.options import RunArgument, VerboseOption
from potstill.endpoint import HOST
from potstill.errors import BackendUnavailableError, ConfigError
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
    """Serve a page about a run while it is made: stages, progress, curves, samples."""
    set_up_logging(verbose=verbose)
    if not run_dir.is_dir():
        raise ConfigError("there is no such run yet", where=run_dir, hint="potstill run makes one")
    try:
        server = server_of(RunDirectory(run_dir), port)
    except OSError as error:
        raise BackendUnavailableError(
            f"the address cannot be listened on: {error.strerror}",
            where=f"{HOST}:{port}",
            hint="--port names another one",
        ) from error
    typer.echo(f"http://{HOST}:{server.server_port}/ until Ctrl-C; from elsewhere: ssh -L")
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("", err=True)
