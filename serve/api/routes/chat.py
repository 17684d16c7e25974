"""`/v1/chat/completions`, whole or as server-sent events."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from fastapi import APIRouter, Request, Response

from serve.api.http_answers import chunk_events, respond
from serve.api.routes.schema import FAILURES, STREAM_OR
from serve.api.state import Serving, caller_of, serving_of
from serve.backends.protocol import Caller, ChatBackend, ChatReply, Exchange
from serve.wire.chat import ChatCompletion, ChatCompletionChunk, ChatRequest
from serve.wire.chunks import ChunkAssembler

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
    observed = _Observed(
        serving, backend, caller, body, await http.json() if serving.observers else {}
    )

    def events(reply: ChatReply) -> AsyncIterator[bytes]:
        return chunk_events(observed.chunks(reply), with_usage=body.streams_usage)

    return await respond(
        http,
        backend.chat(body, caller),
        seconds=serving.request_timeout_seconds,
        events=events if body.stream else None,
        finished=observed.report,
    )


@dataclass
class _Observed:
    """One chat, reported to the observers when it is complete."""

    serving: Serving
    backend: ChatBackend
    caller: Caller
    request: ChatRequest
    body: dict[str, object]
    streamed: ChatCompletion | None = None
    started: float = field(default_factory=time.perf_counter)

    async def chunks(self, reply: ChatReply) -> AsyncIterator[ChatCompletionChunk]:
        """Yield a reply's chunks, and keep the completion they add up to."""
        assembler = ChunkAssembler()
        async for chunk in reply.chunks():
            if self.serving.observers:
                assembler.add(chunk)
            yield chunk
        self.streamed = assembler.completion

    async def report(self, completion: ChatCompletion | None) -> None:
        """Call the observers with the completion, or else with the streamed one."""
        completion = completion or self.streamed
        if completion is not None:
            seconds = time.perf_counter() - self.started
            await self.serving.report(
                Exchange(self.body, self.request, completion, self.caller, self.backend, seconds)
            )
