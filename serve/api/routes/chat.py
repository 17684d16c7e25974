"""`/v1/chat/completions`, whole or as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter, Request, Response

from serve.api.http_answers import chunk_events, respond
from serve.api.observed import ObservedChat
from serve.api.routes.schema import FAILURES, STREAM_OR
from serve.api.state import caller_of, serving_of
from serve.backends.protocol import ChatReply
from serve.wire.chat import ChatCompletion, ChatRequest

router = APIRouter()


@router.post(
    "/v1/chat/completions",
    response_model=ChatCompletion,
    responses=FAILURES | STREAM_OR,
    tags=["OpenAI"],
)
@router.post("/chat/completions", include_in_schema=False)
async def create_chat_completion(body: ChatRequest, http: Request) -> Response:
    """Answer a conversation, whole or as server-sent events."""
    serving, caller = serving_of(http), caller_of(http)
    backend, body = serving.find_for(body)
    sent = await http.json() if serving.observers else None
    observed = ObservedChat(serving, backend, body, caller, body=sent)

    def events(reply: ChatReply) -> AsyncIterator[bytes]:
        return chunk_events(reply.chunks(), with_usage=body.streams_usage)

    return await respond(
        http,
        observed.ask(),
        seconds=serving.request_timeout_seconds,
        events=events if body.stream else None,
        finished=observed.report,
    )
