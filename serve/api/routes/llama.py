"""Endpoints of llama.cpp's own server, for its clients; they need a model in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from serve.api.http_answers import respond, server_sent
from serve.api.local_model import in_use
from serve.api.routes.schema import FAILURES, STREAM_OR
from serve.api.state import caller_of, serving_of
from serve.backends.local.backend import LocalBackend
from serve.backends.local.llama_reply import LlamaReplies
from serve.backends.local.swappable import SwappableBackend
from serve.backends.protocol import Reply
from serve.wire.chat import ChatRequest
from serve.wire.llama import (
    DetokenizeRequest,
    LlamaCompletionRequest,
    TemplateRequest,
    TokenizeRequest,
    TokenPiece,
    Tokens,
)
from serve.wire.shared import JsonObject

router = APIRouter(tags=["llama.cpp"])


@router.post("/completion", responses=FAILURES | STREAM_OR)
@router.post("/completions", include_in_schema=False)
async def complete(body: LlamaCompletionRequest, http: Request) -> Response:
    """Continue one prompt or several."""
    serving = serving_of(http)
    backend, body = serving.find_for(body)

    async def ask() -> LlamaReplies:
        with in_use(backend) as local:
            return await local.complete_llama(body, caller_of(http))

    return await respond(
        http,
        ask(),
        seconds=serving.request_timeout_seconds,
        events=_events if body.stream else None,
        shown=lambda answers: answers if body.wants_list else answers[0],
    )


@router.post("/tokenize", response_model=Tokens, responses=FAILURES)
async def tokenize(body: TokenizeRequest, http: Request) -> Response:
    """Return the tokens of a text."""
    caller = caller_of(http)
    with _local(http, body.model) as local:
        token_ids = await local.tokenize(
            body.content, caller, add_special=body.add_special, parse_special=body.parse_special
        )
        return await local.beside(
            lambda: _shown(local, token_ids, with_pieces=body.with_pieces), caller
        )


@router.post("/detokenize", responses=FAILURES)
async def detokenize(body: DetokenizeRequest, http: Request) -> dict[str, str]:
    """Return the text of tokens."""
    with _local(http, body.model) as local:
        text = await local.beside(lambda: local.detokenize(body.tokens), caller_of(http))
        return {"content": text}


@router.post("/apply-template", responses=FAILURES)
async def apply_template(body: TemplateRequest, http: Request) -> dict[str, str]:
    """Return the prompt of a conversation."""
    chat = ChatRequest.model_validate(body.model_dump(by_alias=True, exclude_unset=True))
    with _local(http, body.model) as local:
        return {"prompt": await local.rendered(chat, caller_of(http))}


@router.post("/v1/chat/completions/input_tokens", responses=FAILURES)
@router.post("/chat/completions/input_tokens", include_in_schema=False)
async def count_tokens(body: ChatRequest, http: Request) -> dict[str, int]:
    """Count the tokens of a conversation's prompt."""
    with _local(http, body.model) as local:
        return {"input_tokens": await local.count_prompt_tokens(body, caller_of(http))}


@router.get("/props", responses=FAILURES)
async def props(http: Request, model: str | None = None) -> JsonObject:
    """Describe a model as llama.cpp's server does."""
    with _first_local(http, model) as local:
        return {
            "default_generation_settings": {"n_ctx": local.card["context_tokens"]},
            "total_slots": local.stats().num_sequences,
            "model_alias": local.name,
            "chat_template": local.template,
            "build_info": local.card["system_fingerprint"],
        }


@router.get("/slots", responses=FAILURES)
async def slots(http: Request, model: str | None = None) -> list[JsonObject]:
    """Return how many slots of a model are busy; nothing about the requests in them."""
    with _first_local(http, model) as local:
        stats = local.stats()
    return [
        {"id": number, "is_processing": number < stats.num_active}
        for number in range(stats.num_sequences)
    ]


def _local(http: Request, name: str | None) -> AbstractContextManager[LocalBackend]:
    return in_use(serving_of(http).find(name))


def _first_local(http: Request, name: str | None) -> AbstractContextManager[LocalBackend]:
    backends = serving_of(http).backends.values()
    kinds = (LocalBackend, SwappableBackend)
    first = next((one for one in backends if isinstance(one, kinds)), None)
    return in_use(first) if name is None and first else _local(http, name)


def _shown(local: LocalBackend, token_ids: list[int], *, with_pieces: bool) -> Response:
    if not with_pieces:
        return JSONResponse({"tokens": token_ids})
    return JSONResponse({"tokens": [_piece(local, token_id) for token_id in token_ids]})


def _piece(local: LocalBackend, token_id: int) -> TokenPiece:
    piece = local.model.piece(token_id)
    try:
        return {"id": token_id, "piece": piece.decode()}
    except UnicodeDecodeError:
        return {"id": token_id, "piece": list(piece)}


async def _events(reply: Reply[list[JsonObject], JsonObject]) -> AsyncIterator[bytes]:
    async for chunk in reply.chunks():
        yield server_sent(chunk)
