"""Chat completions as the response objects and events of `/v1/responses`."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from serve.api.http_answers import server_sent
from serve.backends.protocol import ChatReply
from serve.wire.chat import ChatCompletion, ToolCall
from serve.wire.chunks import ChunkAssembler
from serve.wire.responses import ResponseRequest
from serve.wire.shared import CompletionUsage, JsonObject, Received


class ResponseOfChat:
    """One response being made.

    Args:
        reports_cut: Whether an answer that reached its limit has the status "incomplete", as at
            OpenAI; llama.cpp's server reports "completed".
    """

    def __init__(self, request: ResponseRequest, *, reports_cut: bool = True) -> None:
        self._reports_cut = reports_cut
        self._request = request
        self._id = f"resp_{secrets.token_hex(24)}"
        self._message_id = f"msg_{secrets.token_hex(24)}"
        self._place = {"item_id": self._message_id, "output_index": 0, "content_index": 0}
        self._created_at = int(time.time())
        self._number = 0
        self._call_ids: list[str] = []

    def whole(self, completion: ChatCompletion) -> JsonObject:
        """Return the response for a chat completion."""
        choice = completion["choices"][0]
        text = choice["message"]["content"]
        calls = choice["message"].get("tool_calls") or []
        output = [self._message(text or "", "completed")] if text or not calls else []
        output += [self._call(index, call) for index, call in enumerate(calls)]
        is_cut = self._reports_cut and choice["finish_reason"] == "length"
        return self._response(
            "incomplete" if is_cut else "completed", output, completion.get("usage")
        )

    async def events(self, reply: ChatReply) -> AsyncIterator[bytes]:
        """Yield the typed events of a streamed response.

        Raises:
            BackendError: The backend failed.
        """
        yield self._event("response.created", response=self._response("in_progress", [], None))
        yield self._event("response.in_progress", response=self._response("in_progress", [], None))
        assembler, has_text, num_calls = ChunkAssembler(), False, 0
        extra: JsonObject = {}
        async for chunk in reply.chunks():
            assembler.add(chunk)
            extra = {"timings": chunk["timings"]} if "timings" in chunk else {}
            if "prompt_progress" in chunk:
                yield self._event(
                    "response.in_progress",
                    response=self._response("in_progress", [], None),
                    prompt_progress=chunk["prompt_progress"],
                )
            for choice in chunk["choices"]:
                text = choice["delta"].get("content")
                if text and not has_text:
                    has_text = True
                    for event in self._text_begins():
                        yield event
                if text:
                    yield self._event(
                        "response.output_text.delta",
                        **extra,
                        **self._place,
                        delta=text,
                        logprobs=[],
                    )
                for delta in choice["delta"].get("tool_calls") or ():
                    for event in self._call_events(delta, int(has_text), num_calls):
                        yield event
                    num_calls = max(num_calls, delta["index"] + 1)
        completion = assembler.completion
        assert completion is not None
        response = self.whole(completion)
        for event in self._endings(response, has_text=has_text):
            yield event
        yield self._event(f"response.{response['status']}", **extra, response=response)

    def _text_begins(self) -> list[bytes]:
        item = {**self._message("", "in_progress"), "content": []}
        return [
            self._event("response.output_item.added", output_index=0, item=item),
            self._event("response.content_part.added", **self._place, part=_part("")),
        ]

    def _call_events(self, delta: JsonObject, offset: int, num_known: int) -> list[bytes]:
        """Return the events of one piece of a call; `offset` items came before the first call."""
        events, index = [], delta["index"]
        place = {"output_index": offset + index}
        if index >= num_known:
            call: ToolCall = {
                "id": delta["id"],
                "type": "function",
                "function": {"name": delta["function"]["name"], "arguments": ""},
            }
            item = {**self._call(index, call), "status": "in_progress"}
            events.append(self._event("response.output_item.added", **place, item=item))
        if arguments := delta["function"].get("arguments"):
            events.append(
                self._event(
                    "response.function_call_arguments.delta",
                    **place,
                    item_id=self._call_ids[index],
                    delta=arguments,
                )
            )
        return events

    def _endings(self, response: JsonObject, *, has_text: bool) -> list[bytes]:
        events = []
        for index, item in enumerate(response["output"]):
            if item["type"] == "function_call":
                events.append(
                    self._event(
                        "response.function_call_arguments.done",
                        output_index=index,
                        item_id=item["id"],
                        name=item["name"],
                        arguments=item["arguments"],
                    )
                )
            else:
                text = item["content"][0]["text"]
                events += [] if has_text else self._text_begins()
                done = {**self._place, "text": text, "logprobs": []}
                events.append(self._event("response.output_text.done", **done))
                events.append(
                    self._event("response.content_part.done", **self._place, part=_part(text))
                )
            events.append(self._event("response.output_item.done", output_index=index, item=item))
        return events

    def _event(self, kind: str, **fields: Any) -> bytes:  # noqa: ANN401  (any JSON value)
        content = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return server_sent(content, event=kind)

    def _message(self, text: str, status: str) -> JsonObject:
        return {
            "id": self._message_id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": [_part(text)],
        }

    def _call(self, index: int, call: ToolCall) -> JsonObject:
        while len(self._call_ids) <= index:
            self._call_ids.append(f"fc_{secrets.token_hex(24)}")
        return {
            "id": self._call_ids[index],
            "type": "function_call",
            "status": "completed",
            "call_id": call["id"],
            **call["function"],
        }

    def _response(
        self, status: str, output: list[JsonObject], usage: CompletionUsage | None
    ) -> JsonObject:
        request = self._request
        is_cut = status == "incomplete"
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created_at,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "metadata": request.metadata or {},
            "model": request.model,
            "output": output,
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": 1.0 if request.temperature is None else request.temperature,
            "text": {"format": _dumped(request.text and request.text.format) or {"type": "text"}},
            "tool_choice": _dumped(request.tool_choice) or "auto",
            "tools": [_dumped(tool) for tool in request.tools or ()],
            "top_p": 1.0 if request.top_p is None else request.top_p,
            "truncation": "disabled",
            "usage": None if usage is None else _usage(usage),
        }


def _part(text: str) -> JsonObject:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _dumped(given: object) -> object:
    """Return a part of the request as it was sent."""
    if isinstance(given, Received):
        return given.model_dump(by_alias=True, exclude_unset=True)
    return given


def _usage(usage: CompletionUsage) -> JsonObject:
    # Upstream servers may send null.
    details = usage.get("prompt_tokens_details") or {"cached_tokens": 0}
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {**details, "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["total_tokens"],
    }
