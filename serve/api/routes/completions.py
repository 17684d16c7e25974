"""`/v1/completions` and `/v1/embeddings`: text without a chat template, where a backend can."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from serve.api.http_answers import STATUS_CLIENT_GONE, chunk_events, respond, whole
from serve.api.routes.schema import FAILURES, STREAM_OR
from serve.api.state import caller_of, capable, serving_of
from serve.backends.local.turns import SharedThreads
from serve.backends.protocol import CompletionBackend, CompletionReply, EmbeddingBackend
from serve.wire.completions import Completion, CompletionRequest
from serve.wire.embeddings import EmbeddingList, EmbeddingRequest

router = APIRouter()

_writing = SharedThreads(2, "write embeddings")


@router.post(
    "/v1/completions",
    response_model=Completion,
    responses=FAILURES | STREAM_OR,
    tags=["OpenAI"],
)
async def create_completion(body: CompletionRequest, http: Request) -> Response:
    """Continue a text, whole or as server-sent events."""
    serving = serving_of(http)
    backend, body = serving.find_for(body)

    def events(reply: CompletionReply) -> AsyncIterator[bytes]:
        return chunk_events(reply.chunks(), with_usage=body.streams_usage)

    return await respond(
        http,
        capable(backend, CompletionBackend).complete_text(body, caller_of(http)),  # type: ignore[type-abstract]
        seconds=serving.request_timeout_seconds,
        events=events if body.stream else None,
    )


@router.post("/v1/embeddings", response_model=EmbeddingList, responses=FAILURES, tags=["OpenAI"])
@router.post("/embeddings", include_in_schema=False)
async def create_embeddings(body: EmbeddingRequest, http: Request) -> Response:
    """Compute the embeddings of texts."""
    serving = serving_of(http)
    backend = capable(serving.find(body.model), EmbeddingBackend)  # type: ignore[type-abstract]
    caller = caller_of(http)
    work = backend.embed(body, caller)
    embeddings = await whole(http, work, seconds=serving.request_timeout_seconds)
    if embeddings is None:
        return JSONResponse(None, STATUS_CLIENT_GONE)
    content = await _writing.run(lambda: written(embeddings), caller.owner)
    return Response(content, media_type="application/json")


def written(embeddings: EmbeddingList) -> str:
    """Return embeddings as JSON, beside the event loop.

    Each is written by itself: a million numbers take half a second, and nothing else runs while
    Python's encoder writes.
    """
    parts = {
        name: f"[{','.join(map(_json, value))}]" if isinstance(value, list) else _json(value)
        for name, value in embeddings.items()
    }
    return f"{{{','.join(f'{_json(name)}:{value}' for name, value in parts.items())}}}"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
