"""The HTTP face: OpenAI's routes over the served models.

In: models by name. Out: an ASGI application. Knows nothing of run directories or llama.cpp.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from serve.api.auth import RequireKey
from serve.api.chat_answer import ChatAnswer
from serve.api.http_errors import install_error_handlers
from serve.api.wire import ChatCompletion, ChatRequest, ErrorBody, ModelCard, ModelList
from serve.chat.prompt import ChatPrompt
from serve.engine.thread import EngineThread, Generation
from serve.errors import ModelNotFoundError
from serve.record import Record

STATUS_CLIENT_GONE = 499
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 401, 404, 429, 500, 503)
}


@dataclass(frozen=True)
class ServedModel:
    """A model under the name it is served by; two names may share one engine."""

    name: str
    created: int
    """When its file was made, in seconds since 1970."""
    fingerprint: str
    """Changes when an equal request with an equal seed may be answered differently."""
    engine: EngineThread
    prompt: ChatPrompt

    @property
    def card(self) -> ModelCard:
        """The model as OpenAI lists it."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "potstill",
        }


class _GenerationResponse(StreamingResponse):
    """A stream that frees its slots however it ends, even before its first byte."""

    def __init__(self, answer: ChatAnswer, generation: Generation, http: Request) -> None:
        super().__init__(answer.stream(), media_type="text/event-stream")
        self.headers["Cache-Control"] = "no-cache"
        self._answer, self._generation, self._http = answer, generation, http

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._generation.cancel()
            if self._answer.is_whole:
                await _record(self._http, self._answer)


router = APIRouter()


def create_app(
    models: Mapping[str, ServedModel], *, api_key: str | None = None, record: Record | None = None
) -> FastAPI:
    """Build the application; its lifespan starts and stops the engines.

    Args:
        models: What is served, by name.
        api_key: What clients must send as Bearer token; None lets everybody in.
        record: Where requests and answers are written down; None writes nothing down.
    """
    engines = list({id(model.engine): model.engine for model in models.values()}.values())

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        for engine in engines:
            engine.start()
        yield
        await asyncio.gather(*(engine.stop() for engine in engines))

    app = FastAPI(title="potstill", lifespan=lifespan)
    app.state.models = models
    app.state.record = record
    app.include_router(router)
    install_error_handlers(app)
    if api_key is not None:
        app.add_middleware(RequireKey, key=api_key)
    return app


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(http: Request) -> JSONResponse:
    """Say whether every model takes requests."""
    not_ready = [name for name, model in _models(http).items() if not model.engine.is_ready]
    return JSONResponse({"not_ready": not_ready}, 503 if not_ready else 200)


@router.get("/v1/models", responses=ERRORS)
async def list_models(http: Request) -> ModelList:
    """List the served models."""
    return {"object": "list", "data": [model.card for model in _models(http).values()]}


@router.get("/v1/models/{name:path}", responses=ERRORS)
async def retrieve_model(name: str, http: Request) -> ModelCard:
    """Describe one model."""
    return _find(name, http).card


@router.post("/v1/chat/completions", response_model=ChatCompletion, responses=ERRORS)
async def create_chat_completion(body: ChatRequest, http: Request) -> Response:
    """Answer a conversation, whole or as server-sent events."""
    model = _find(body.model, http)
    body.check()
    # Rendering and tokenising a long prompt takes milliseconds: not in the event loop.
    prompt = await asyncio.to_thread(model.prompt.token_ids, body.to_messages())
    generation = model.engine.submit(body.to_requests(prompt))
    answer = ChatAnswer(
        body,
        generation,
        model.engine.engine.model,
        num_prompt_tokens=len(prompt),
        fingerprint=model.fingerprint,
    )
    if body.stream:
        return _GenerationResponse(answer, generation, http)
    try:
        completion = await _unless_disconnected(http, answer.complete())
    finally:
        generation.cancel()
    if completion is None:
        return JSONResponse(None, STATUS_CLIENT_GONE)
    await _record(http, answer)
    return JSONResponse(completion)


async def _record(http: Request, answer: ChatAnswer) -> None:
    record: Record | None = http.app.state.record
    if record is not None:
        # A disk may be slow: not in the event loop.
        await asyncio.to_thread(record.append, await http.json(), answer.completion())


def _models(http: Request) -> Mapping[str, ServedModel]:
    models: Mapping[str, ServedModel] = http.app.state.models
    return models


def _find(name: str, http: Request) -> ServedModel:
    models = _models(http)
    if name not in models:
        raise ModelNotFoundError(
            f"the model {name!r} does not exist", where="model", expected=" | ".join(models)
        )
    return models[name]


async def _unless_disconnected(
    http: Request, work: Coroutine[Any, Any, ChatCompletion]
) -> ChatCompletion | None:
    """Return what `work` returns, or None as soon as the client is gone; `work` is then stopped."""

    async def disconnected() -> None:
        while (await http.receive())["type"] != "http.disconnect":
            pass

    working = asyncio.create_task(work)
    tasks = [working, asyncio.create_task(disconnected())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in tasks:
            task.cancel()
