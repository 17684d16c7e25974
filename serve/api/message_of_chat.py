"""Chat completions as the messages and events of `/v1/messages`."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from potstill.json_text import parse_object
from serve.api.http_answers import server_sent
from serve.api.http_errors import error_body, status_of
from serve.backends.protocol import ChatReply
from serve.wire.chat import ChatCompletion, Choice
from serve.wire.chunks import NO_USAGE, ChunkAssembler
from serve.wire.messages import STOP_REASONS, MessageRequest, message_error
from serve.wire.shared import CompletionUsage, JsonObject


class MessageOfChat:
    """One message being made."""

    def __init__(self, request: MessageRequest) -> None:
        self._shows_thinking = request.shows_thinking
        self._model = request.model
        self._id = f"msg_{secrets.token_hex(12)}"
        self._num_blocks = 0
        self._open: object = None
        """What identifies the block that is being streamed; None where there is none."""

    def whole(self, completion: ChatCompletion) -> JsonObject:
        """Return the message for a chat completion."""
        choice = completion["choices"][0]
        message = choice["message"]
        content: list[JsonObject] = []
        if self._shows_thinking and (thinking := message.get("reasoning_content")):
            content.append({"type": "thinking", "thinking": thinking, "signature": ""})
        if text := message["content"]:
            content.append({"type": "text", "text": text})
        for call in message.get("tool_calls") or ():
            function = call["function"]
            block = _call(call["id"], function["name"])
            # An answer that was cut off inside them has none.
            content.append({**block, "input": parse_object(function["arguments"])})
        return self._message(content, _ending(choice), completion.get("usage") or NO_USAGE)

    async def events(self, reply: ChatReply) -> AsyncIterator[bytes]:
        """Yield the typed events of a streamed message; the last but one has the token counts.

        Raises:
            BackendError: The backend failed.
        """
        nothing = {"stop_reason": None, "stop_sequence": None}
        yield _event("message_start", message=self._message([], nothing, NO_USAGE))
        assembler = ChunkAssembler()
        async for chunk in reply.chunks():
            assembler.add(chunk)
            for choice in chunk["choices"]:
                for event in self._pieces(choice["delta"]):
                    yield event
        for event in self._close():
            yield event
        completion = assembler.whole()
        ending = _ending(completion["choices"][0])
        yield _event("message_delta", delta=ending, usage=_usage(completion["usage"]))
        yield _event("message_stop")

    def _pieces(self, delta: JsonObject) -> Iterator[bytes]:
        thinking, text = delta.get("reasoning_content"), delta.get("content")
        if thinking and self._shows_thinking:
            yield from self._begin(
                "thinking", {"type": "thinking", "thinking": "", "signature": ""}
            )
            yield self._piece({"type": "thinking_delta", "thinking": thinking})
        if text:
            yield from self._begin("text", {"type": "text", "text": ""})
            yield self._piece({"type": "text_delta", "text": text})
        for call in delta.get("tool_calls") or ():
            function = call.get("function") or {}
            begun = {**_call(call.get("id"), function.get("name")), "input": {}}
            yield from self._begin(call.get("index", 0), begun)
            if arguments := function.get("arguments"):
                yield self._piece({"type": "input_json_delta", "partial_json": arguments})

    def _begin(self, key: object, block: JsonObject) -> Iterator[bytes]:
        """End the block before and begin another one, unless it has begun."""
        if key == self._open:
            return
        yield from self._close()
        self._open, self._num_blocks = key, self._num_blocks + 1
        yield _event("content_block_start", index=self._num_blocks - 1, content_block=block)

    def _piece(self, delta: JsonObject) -> bytes:
        return _event("content_block_delta", index=self._num_blocks - 1, delta=delta)

    def _close(self) -> Iterator[bytes]:
        if self._open is not None:
            self._open = None
            yield _event("content_block_stop", index=self._num_blocks - 1)

    def _message(
        self, content: list[JsonObject], ending: JsonObject, usage: CompletionUsage
    ) -> JsonObject:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            **ending,
            "usage": _usage(usage),
        }


def failure_event(error: Exception) -> bytes:
    """Return the event of an error after a stream has begun."""
    return server_sent(message_error(error_body(error), status_of(error)), event="error")


def _event(kind: str, **fields: Any) -> bytes:  # noqa: ANN401  (any JSON value)
    return server_sent({"type": kind, **fields}, event=kind)


def _call(call_id: str | None, name: str | None) -> JsonObject:
    return {"type": "tool_use", "id": call_id, "name": name}


def _ending(choice: Choice) -> JsonObject:
    """Return why an answer ended. Other servers may give a token's id as the stop reason."""
    stop = choice.get("stop_reason")
    if choice["finish_reason"] == "stop" and isinstance(stop, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": stop}
    reason = STOP_REASONS.get(choice["finish_reason"], "end_turn")
    return {"stop_reason": reason, "stop_sequence": None}


def _usage(usage: CompletionUsage) -> JsonObject:
    """Return token counts; Anthropic counts cached tokens apart from the input's."""
    # Upstream servers may send null.
    details: Mapping[str, Any] = usage.get("prompt_tokens_details") or {}
    num_cached = details.get("cached_tokens") or 0
    return {
        "input_tokens": usage["prompt_tokens"] - num_cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": num_cached,
        "output_tokens": usage["completion_tokens"],
    }
