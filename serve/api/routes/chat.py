"""`/v1/chat/completions`: any backend's chats, whole or as server-sent events.

In: HTTP requests. Out: HTTP responses. Knows nothing of how a backend answers.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from serve.api.answers import STATUS_CLIENT_GONE, EventStream, completed, server_sent, whole
from serve.api.assembly import Assembly, without_usage
from serve.api.routes.schema import FAILURES, STREAM_OR
from serve.api.state import Serving, caller_of, serving_of
from serve.api.wire.chat import ChatCompletion, ChatRequest
from serve.api.wire.shared import StreamOptions
from serve.backends.protocol import Caller, ChatBackend, ChatReply, Exchange, headers_of

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
    backend = serving.find(body.model)
    body = body.model_copy(update={"model": backend.card["id"]})
    observed = Observed(serving, backend, caller, body, await http.json())
    asked = observed.with_usage(body) if serving.observers else body
    seconds = serving.request_timeout_seconds
    reply = await whole(http, backend.chat(asked, caller), seconds=seconds)
    if reply is None:
        return JSONResponse(None, STATUS_CLIENT_GONE)
    if body.stream:
        return EventStream(
            observed.events(reply),
            seconds=seconds,
            close=reply.cancel,
            finished=observed.tell,
            headers=headers_of(reply),
        )
    completion = await completed(http, reply, seconds=seconds)
    if completion is None:
        return JSONResponse(None, STATUS_CLIENT_GONE)
    await observed.tell(completion)
    return JSONResponse(completion, headers=headers_of(reply))


class Observed:
    """One chat, with what observers are told of it."""

    def __init__(
        self,
        serving: Serving,
        backend: ChatBackend,
        caller: Caller,
        request: ChatRequest,
        body: dict[str, object],
    ) -> None:
        self._serving = serving
        self._backend = backend
        self._caller = caller
        self._request = request
        self._body = body
        self._started = time.perf_counter()
        self._assembly = Assembly() if serving.observers and request.stream else None

    @staticmethod
    def with_usage(request: ChatRequest) -> ChatRequest:
        """Let a stream tell its usage, whether the client asked for it or not."""
        if not request.stream:
            return request
        return request.model_copy(update={"stream_options": StreamOptions(include_usage=True)})

    async def events(self, reply: ChatReply) -> AsyncIterator[bytes]:
        """Yield a reply's chunks as events."""
        assembly, streams_usage = self._assembly, self._request.streams_usage
        async for chunk in reply.chunks():
            if assembly is None:
                yield server_sent(chunk)
                continue
            assembly.add(chunk)
            shown = chunk if streams_usage else without_usage(chunk)
            if shown is not None:
                yield server_sent(shown)

    async def tell(self, completion: ChatCompletion | None = None) -> None:
        """Tell the observers of the whole answer, when there are any and it is whole."""
        if completion is None and self._assembly is not None:
            completion = self._assembly.completion
        if completion is None:
            return
        await self._serving.tell(
            Exchange(
                body=self._body,
                request=self._request,
                completion=completion,
                caller=self._caller,
                backend=self._backend,
                seconds=time.perf_counter() - self._started,
            )
        )
