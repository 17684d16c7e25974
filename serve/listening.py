"""The server process: an address, requests until a signal arrives, and the supervisor.

In: an application. Out: it, served; requests in flight are completed before the end.
"""

from __future__ import annotations

import json
import logging
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from potstill.api_keys import served_key_variable
from potstill.errors import BackendError, BackendUnavailableError
from serve.api.connections import ConnectionLimits, Connections, raise_descriptor_limit
from serve.api.request_log import keep_logs_private
from serve.api.state import Serving
from serve.config import ServeConfig
from serve.supervisor import ALIVE, READY, STOPPING, notify

logger = logging.getLogger(__name__)

BACKLOG = 2048
ALIVE_TICKS = 50
"""How often the supervisor hears of the server, in tenths of a second."""


@contextmanager
def bound_socket(config: ServeConfig) -> Iterator[socket.socket]:
    """Bind the address before anything is loaded, so that a taken one fails at once."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((config.host, config.port))
        except OSError as error:
            raise BackendUnavailableError(
                f"the address cannot be listened on: {error.strerror}",
                where=f"{config.host}:{config.port}",
                hint="choose another one with --set serve.port=8001; 0 takes any free port",
            ) from error
        yield listener


def serve(app: FastAPI, listener: socket.socket, config: ServeConfig, *, names: list[str]) -> None:
    """Answer requests until a signal arrives."""
    limits = ConnectionLimits(
        max_connections=config.max_connections,
        max_connections_per_address=config.max_connections_per_address,
        head_timeout_seconds=config.head_timeout_seconds,
        write_timeout_seconds=config.write_timeout_seconds,
    )
    connections = Connections(raise_descriptor_limit(limits))
    listener.listen(BACKLOG)
    host, port = listener.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
    logger.info("serving %s at %s", ", ".join(names), url)
    if config.playground:
        logger.info("playground: %s", url.removesuffix("v1"))
    logger.info("try: %s", _curl_example(url, names[0]))
    uvicorn_config = uvicorn.Config(
        app,
        http=connections.connection,  # type: ignore[arg-type]
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        # Whoever connects would choose the address under which it is logged and limited.
        proxy_headers=False,
        timeout_graceful_shutdown=config.drain_seconds,
    )
    keep_logs_private()
    # Its warnings are about clients, who could fill the disk with them.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    serving: Serving = app.state.serving
    _Server(uvicorn_config, serving).run(sockets=[listener])
    if failed := serving.failed_models:
        raise BackendError(
            "a model has failed again and again, or its file was changed while it was served",
            where=", ".join(failed),
            hint="the log has the errors; replace a file by moving another one to its place",
        )


class _Server(uvicorn.Server):
    """A server that returns after a signal instead of raising the signal again.

    It also returns when a model is not started again, so that a supervisor restarts the process.
    """

    def __init__(self, config: uvicorn.Config, serving: Serving) -> None:
        super().__init__(config)
        self._serving = serving

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept requests."""
        await super().startup(sockets)
        notify(READY)

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop; called ten times a second."""
        if counter % ALIVE_TICKS == 0:
            notify(ALIVE)
        return await super().on_tick(counter) or bool(self._serving.failed_models)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish the requests in flight; a further signal ends them."""
        notify(STOPPING)
        logger.info("stopping after the requests in progress; Ctrl-C again cancels them")
        await super().shutdown(sockets)
        if self.force_exit:  # What is cancelled then would be logged as a failure.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        former = {
            number: signal.signal(number, self.handle_exit)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)


def _curl_example(url: str, model: str) -> str:
    variable = served_key_variable()
    key = f'-H "Authorization: Bearer ${variable}" ' if variable else ""
    message = {"role": "user", "content": "Hello!"}
    body = json.dumps({"model": model, "messages": [message], "temperature": 0, "max_tokens": 60})
    return f"curl {url}/chat/completions {key}-H 'Content-Type: application/json' -d '{body}'"
