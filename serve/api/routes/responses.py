"""`/v1/responses`: the stateless subset, over any backend's chats.

In: HTTP requests. Out: HTTP responses. Knows nothing of how a backend answers.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from serve.api.answers import STATUS_CLIENT_GONE, EventStream, completed, whole
from serve.api.response_answer import ResponseAnswer
from serve.api.routes.schema import FAILURES, STREAM_OR
from serve.api.state import caller_of, serving_of
from serve.api.wire.responses import ResponseRequest
from serve.backends.protocol import headers_of

router = APIRouter(tags=["OpenAI"])


@router.post("/v1/responses", responses=FAILURES | STREAM_OR)
@router.post("/responses", include_in_schema=False)
async def create_response(body: ResponseRequest, http: Request) -> Response:
    """Answer an input, whole or as server-sent events; nothing is stored."""
    serving = serving_of(http)
    backend = serving.find(body.model)
    body = body.model_copy(update={"model": backend.card["id"]})
    seconds = serving.request_timeout_seconds
    reply = await whole(http, backend.chat(body.to_chat(), caller_of(http)), seconds=seconds)
    if reply is None:
        return JSONResponse(None, STATUS_CLIENT_GONE)
    answer = ResponseAnswer(body, tells_cut=http.url.path.startswith("/v1/"))
    if body.stream:
        return EventStream(
            answer.events(reply),
            seconds=seconds,
            close=reply.cancel,
            ending=b"",
            headers=headers_of(reply),
        )
    completion = await completed(http, reply, seconds=seconds)
    if completion is None:
        return JSONResponse(None, STATUS_CLIENT_GONE)
    return JSONResponse(answer.whole(completion), headers=headers_of(reply))
