"""The ASGI application: OpenAI's routes, and some of llama.cpp's, over backends by name.

Other folders of `serve/` add routers and observers; this one does not import them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse
from starlette.middleware.cors import CORSMiddleware

from potstill.task.task import Task
from serve.api.auth import RequireKey
from serve.api.http_errors import install_error_handlers
from serve.api.middleware import CheckHost, Count, ReadBody
from serve.api.routes import chat, completions, llama, messages, models, responses
from serve.api.routes import task as task_route
from serve.api.state import Serving
from serve.backends.protocol import (
    ANSWER_HEADER,
    VARIANT_HEADER,
    ChatBackend,
    Observer,
    Watcher,
)
from serve.keys import Keyring, SeveralKeys
from serve.metrics import Metrics

ROUTERS = (
    chat.router,
    completions.router,
    responses.router,
    messages.router,
    models.router,
    task_route.router,
    llama.router,
)

FULL_BODIES = 16
"""How many bodies of the largest size may be in progress together: JSON takes up to 25 times its
length in memory."""


@dataclass(frozen=True)
class AppLimits:
    """Limits of the application; the meanings are those of `ServeConfig`."""

    max_body_bytes: int = 4 << 20
    body_timeout_seconds: float = 30.0
    request_timeout_seconds: float = 600.0
    allowed_hosts: Collection[str] = ("*",)
    cors_origins: Collection[str] = ()


def create_app(
    backends: Mapping[str, ChatBackend],
    *,
    keyring: Keyring | None = None,
    routers: Sequence[APIRouter] = (),
    open_paths: Collection[str] = (),
    observers: Sequence[Observer] = (),
    watcher: Watcher | None = None,
    metrics: Metrics | None = None,
    fallback_model: str | None = None,
    limits: AppLimits | None = None,
    task: Task | None = None,
    find_more: Callable[[str], ChatBackend | None] = lambda _name: None,
    beside: Callable[[], Coroutine[Any, Any, None]] | None = None,
) -> FastAPI:
    """Build the application; its lifespan starts and stops the backends.

    Args:
        backends: Backends by model name.
        keyring: The accepted keys; None needs no key.
        routers: More routes; `serve.api.state.serving_of` gives them the shared state.
        open_paths: More paths that need no key.
        observers: Called with each completed chat.
        watcher: Follows each chat from its request to its end.
        metrics: The metrics of the backends.
        fallback_model: Model that answers requests for unknown names and without a name.
        task: The task that the backends are served with, to be described.
        find_more: Returns the backend of a name that is not listed, if there is one.
        beside: Runs beside the backends, from their start until they stop.
    """
    limits = limits or AppLimits()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        for backend in backends.values():
            await backend.start()
        running = asyncio.create_task(beside()) if beside else None
        yield
        if running is not None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        await asyncio.gather(*(backend.stop() for backend in backends.values()))

    # FastAPI's own pages load scripts from elsewhere, which could then use the server.
    app = FastAPI(
        title="potstill", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )

    @app.get("/openapi.json", include_in_schema=False)
    async def document() -> JSONResponse:
        # Making it takes a second, once: beside the event loop.
        return JSONResponse(await asyncio.to_thread(app.openapi))

    serving = Serving(
        backends=backends,
        metrics=metrics or Metrics(),
        observers=observers,
        watcher=watcher,
        fallback_model=fallback_model,
        request_timeout_seconds=limits.request_timeout_seconds,
        task=task,
        find_more=find_more,
        needs_key=keyring is not None,
    )
    app.state.serving = serving
    for router in (*ROUTERS, *routers):
        app.include_router(router)
    install_error_handlers(app)
    # The middleware added last runs first.
    app.add_middleware(
        ReadBody,
        max_bytes=limits.max_body_bytes,
        seconds=limits.body_timeout_seconds,
        max_held_bytes=limits.max_body_bytes * FULL_BODIES,
        has_owners=SeveralKeys(keyring),
    )
    if keyring is not None:
        app.add_middleware(RequireKey, keyring=keyring, open_paths=open_paths)
    if limits.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(limits.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id", VARIANT_HEADER, ANSWER_HEADER],
        )
    app.add_middleware(
        CheckHost, hosts=frozenset(limits.allowed_hosts), origins=limits.cors_origins
    )
    app.add_middleware(Count, count=serving.metrics.count_request)
    return app
