"""`/v1/completions` and `/v1/embeddings`: text without a chat template, where a backend can.

In: HTTP requests. Out: HTTP responses. Knows nothing of how a backend answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from serve.api.answers import STATUS_CLIENT_GONE, EventStream, completed, server_sent, whole
from serve.api.routes.schema import FAILURES, STREAM_OR
from serve.api.state import caller_of, serving_of
from serve.api.wire.completions import Completion, CompletionRequest
from serve.api.wire.embeddings import EmbeddingList, EmbeddingRequest
from serve.backends.protocol import CompletionBackend, CompletionReply, EmbeddingBackend

router = APIRouter()


@router.post(
    "/v1/completions",
    response_model=Completion,
    responses=FAILURES | STREAM_OR,
    tags=["OpenAI"],
)
async def create_completion(body: CompletionRequest, http: Request) -> Response:
    """Continue a text, whole or as server-sent events."""
    serving = serving_of(http)
    backend, able = serving.find_able(body.model, CompletionBackend)  # type: ignore[type-abstract]
    body = body.model_copy(update={"model": backend.card["id"]})
    seconds = serving.request_timeout_seconds
    reply = await whole(http, able.complete_text(body, caller_of(http)), seconds=seconds)
    if reply is None:
        return JSONResponse(None, STATUS_CLIENT_GONE)
    if body.stream:
        return EventStream(_events(reply), seconds=seconds, close=reply.cancel)
    completion = await completed(http, reply, seconds=seconds)
    return JSONResponse(completion, 200 if completion else STATUS_CLIENT_GONE)


@router.post("/v1/embeddings", response_model=EmbeddingList, responses=FAILURES, tags=["OpenAI"])
@router.post("/embeddings", include_in_schema=False)
async def create_embeddings(body: EmbeddingRequest, http: Request) -> Response:
    """Give texts vectors."""
    serving = serving_of(http)
    _, able = serving.find_able(body.model, EmbeddingBackend)  # type: ignore[type-abstract]
    work = able.embed(body, caller_of(http))
    embeddings = await whole(http, work, seconds=serving.request_timeout_seconds)
    # A million numbers take a second to write: beside the event loop.
    return await asyncio.to_thread(
        JSONResponse, embeddings, 200 if embeddings else STATUS_CLIENT_GONE
    )


async def _events(reply: CompletionReply) -> AsyncIterator[bytes]:
    async for chunk in reply.chunks():
        yield server_sent(chunk)
