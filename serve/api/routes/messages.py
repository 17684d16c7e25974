"""`/v1/messages`: Anthropic's API, over any backend's chats."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from serve.api.http_answers import respond
from serve.api.local_model import in_use
from serve.api.message_of_chat import MessageOfChat, failure_event
from serve.api.observed import ObservedChat
from serve.api.routes.schema import MESSAGE_FAILURES, STREAM_OR
from serve.api.state import caller_of, serving_of
from serve.wire.messages import MessagePrompt, MessageRequest

router = APIRouter(tags=["Anthropic"])


@router.post("/v1/messages", responses=MESSAGE_FAILURES | STREAM_OR)
async def create_message(body: MessageRequest, http: Request) -> Response:
    """Answer a conversation, whole or as server-sent events."""
    serving = serving_of(http)
    backend, body = serving.find_for(body)
    chat = body.to_chat()
    observed = ObservedChat(serving, backend, chat.chat, caller_of(http), translation=chat)
    message = MessageOfChat(body)
    return await respond(
        http,
        observed.ask(),
        seconds=serving.request_timeout_seconds,
        events=message.events if body.stream else None,
        shown=message.whole,
        failure=failure_event,
        finished=observed.report,
        ending=b"",
    )


@router.post("/v1/messages/count_tokens", responses=MESSAGE_FAILURES)
async def count_message_tokens(body: MessagePrompt, http: Request) -> dict[str, int]:
    """Count the tokens of a conversation's prompt."""
    translation = body.to_chat()
    with in_use(serving_of(http).find(body.model)) as local, translation.errors_in_place():
        num_tokens = await local.count_prompt_tokens(translation.chat, caller_of(http))
        return {"input_tokens": num_tokens}
