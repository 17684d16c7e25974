"""`/v1/responses`: the stateless subset, over any backend's chats."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from serve.api.http_answers import respond
from serve.api.observed import ObservedChat
from serve.api.response_of_chat import ResponseOfChat
from serve.api.routes.schema import FAILURES, STREAM_OR
from serve.api.state import caller_of, serving_of
from serve.wire.responses import ResponseRequest

router = APIRouter(tags=["OpenAI"])


@router.post("/v1/responses", responses=FAILURES | STREAM_OR)
@router.post("/responses", include_in_schema=False)
async def create_response(body: ResponseRequest, http: Request) -> Response:
    """Answer an input, whole or as server-sent events; none can be continued by its id."""
    serving = serving_of(http)
    backend, body = serving.find_for(body)
    chat = body.to_chat()
    observed = ObservedChat(serving, backend, chat.chat, caller_of(http), translation=chat)
    response = ResponseOfChat(body, reports_cut=str(http.scope["path"]).startswith("/v1/"))
    return await respond(
        http,
        observed.ask(),
        seconds=serving.request_timeout_seconds,
        events=response.events if body.stream else None,
        shown=response.whole,
        finished=observed.report,
        ending=b"",
    )
