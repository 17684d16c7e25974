"""Chat completions as the response objects and events of `/v1/responses`."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from serve.api.http_answers import server_sent
from serve.backends.protocol import ChatReply
from serve.wire.chat import ChatCompletion, Choice, ChunkChoice, ToolCall
from serve.wire.chunks import ChunkAssembler
from serve.wire.responses import ResponseRequest
from serve.wire.shared import CompletionUsage, JsonObject, Received, TokenLogprob

TEXT = -1
"""Stands for the message among the indexes of calls."""
MAX_RETURNED = 4096
"""Values of one parameter that are returned: a stream has them three times, and nothing else runs
while a million become JSON."""
MAX_RETURNED_CHARACTERS = 1 << 18
"""Of one parameter's names and texts, for the same reasons."""


class ResponseOfChat:
    """One response being made.

    Args:
        reports_cut: Whether an answer that reached its limit has the status "incomplete", as at
            OpenAI; llama.cpp's server reports "completed".
    """

    def __init__(self, request: ResponseRequest, *, reports_cut: bool = True) -> None:
        self._reports_cut = reports_cut
        self._request = request
        format_ = _dumped(request.text and request.text.format) or {"type": "text"}
        self._settings: JsonObject = {
            "metadata": _returned(request.metadata or {}, {}),
            "text": {"format": _returned(format_, {"type": "text"})},
            "tool_choice": _dumped(request.tool_choice) or "auto",
            "tools": _returned([_dumped(tool) for tool in request.tools or ()], []),
        }
        self._id = f"resp_{secrets.token_hex(24)}"
        self._message_id = f"msg_{secrets.token_hex(24)}"
        self._created_at = int(time.time())
        self._number = 0
        self._call_ids: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        """Those of tokens whose text is still to come."""
        self._order: list[int] = []
        """The items in the order in which they began: indexes of calls, and TEXT."""

    def whole(self, completion: ChatCompletion) -> JsonObject:
        """Return the response for a chat completion."""
        choice = completion["choices"][0]
        text = choice["message"]["content"] or ""
        calls = choice["message"].get("tool_calls") or []
        order = self._order
        if not order:
            order = [*([TEXT] if text or not calls else []), *range(len(calls))]
        is_cut = self._reports_cut and choice["finish_reason"] == "length"
        status = "incomplete" if is_cut else "completed"
        statuses = [*["completed"] * (len(order) - 1), status]
        output = [
            self._message(text, one, _logprobs(choice))
            if key == TEXT
            else self._call(key, calls[key], one)
            for key, one in zip(order, statuses, strict=True)
        ]
        return self._response(status, output, completion.get("usage"))

    async def events(self, reply: ChatReply) -> AsyncIterator[bytes]:
        """Yield the typed events of a streamed response.

        Raises:
            BackendError: The backend failed.
        """
        yield self._event("response.created", response=self._response("in_progress", [], None))
        yield self._event("response.in_progress", response=self._response("in_progress", [], None))
        assembler = ChunkAssembler()
        extra: JsonObject = {}
        async for chunk in reply.chunks():
            assembler.add(chunk)
            extra = {"timings": chunk["timings"]} if "timings" in chunk else {}
            if "prompt_progress" in chunk:
                # Not all of the request again, which may have megabytes.
                yield self._event(
                    "response.in_progress",
                    response={"id": self._id, "object": "response", "status": "in_progress"},
                    prompt_progress=chunk["prompt_progress"],
                )
            for choice in chunk["choices"]:
                for event in self._pieces(choice, extra):
                    yield event
        completion = assembler.whole()
        if not self._order:
            for event in self._text_begins():
                yield event
        response = self.whole(completion)
        for event in self._endings(response):
            yield event
        yield self._event(f"response.{response['status']}", **extra, response=response)

    def _pieces(self, choice: ChunkChoice, extra: JsonObject) -> Iterator[bytes]:
        delta = choice["delta"]
        # A token may be part of a character, and has no text then.
        self._logprobs += _logprobs(choice)
        if text := delta.get("content"):
            logprobs, self._logprobs = self._logprobs, []
            if TEXT not in self._order:
                yield from self._text_begins()
            place = self._place(TEXT, self._message_id)
            yield self._event(
                "response.output_text.delta",
                **extra,
                **place,
                content_index=0,
                delta=text,
                logprobs=logprobs,
            )
        for call in delta.get("tool_calls") or ():
            yield from self._call_events(call)

    def _place(self, key: int, item_id: str) -> JsonObject:
        return {"item_id": item_id, "output_index": self._order.index(key)}

    def _text_begins(self) -> Iterator[bytes]:
        self._order.append(TEXT)
        place = self._place(TEXT, self._message_id)
        item = {**self._message("", "in_progress", []), "content": []}
        yield self._event(
            "response.output_item.added", output_index=place["output_index"], item=item
        )
        yield self._event(
            "response.content_part.added", **place, content_index=0, part=_part("", [])
        )

    def _call_events(self, delta: JsonObject) -> Iterator[bytes]:
        """Yield the events of one piece of a call."""
        index, function = delta.get("index", 0), delta.get("function") or {}
        if index not in self._order:
            self._order.append(index)
            call: ToolCall = {
                "id": delta.get("id") or "",
                "type": "function",
                "function": {"name": function.get("name") or "", "arguments": ""},
            }
            item = self._call(index, call, "in_progress")
            place = self._order.index(index)
            yield self._event("response.output_item.added", output_index=place, item=item)
        if arguments := function.get("arguments"):
            yield self._event(
                "response.function_call_arguments.delta",
                **self._place(index, self._call_ids[index]),
                delta=arguments,
            )

    def _endings(self, response: JsonObject) -> Iterator[bytes]:
        for index, item in enumerate(response["output"]):
            place = {"item_id": item["id"], "output_index": index}
            if item["type"] == "function_call":
                yield self._event(
                    "response.function_call_arguments.done",
                    **place,
                    name=item["name"],
                    arguments=item["arguments"],
                )
            else:
                (part,) = item["content"]
                done = {"text": part["text"], "logprobs": part["logprobs"]}
                yield self._event("response.output_text.done", **place, content_index=0, **done)
                yield self._event("response.content_part.done", **place, content_index=0, part=part)
            yield self._event("response.output_item.done", output_index=index, item=item)

    def _event(self, kind: str, **fields: Any) -> bytes:  # noqa: ANN401  (any JSON value)
        content = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return server_sent(content, event=kind)

    def _message(self, text: str, status: str, logprobs: list[TokenLogprob]) -> JsonObject:
        return {
            "id": self._message_id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": [_part(text, logprobs)],
        }

    def _call(self, index: int, call: ToolCall, status: str) -> JsonObject:
        while len(self._call_ids) <= index:
            self._call_ids.append(f"fc_{secrets.token_hex(24)}")
        return {
            "id": self._call_ids[index],
            "type": "function_call",
            "status": status,
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
            "instructions": _returned(request.instructions, None),
            "max_output_tokens": request.max_output_tokens,
            "model": request.model,
            "output": output,
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": 1.0 if request.temperature is None else request.temperature,
            **self._settings,
            "top_logprobs": request.top_logprobs or 0,
            "top_p": 1.0 if request.top_p is None else request.top_p,
            "truncation": "disabled",
            "usage": None if usage is None else _usage(usage),
        }


def _part(text: str, logprobs: list[TokenLogprob]) -> JsonObject:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def _logprobs(choice: Choice | ChunkChoice) -> list[TokenLogprob]:
    # Upstream servers may send null.
    logprobs = choice.get("logprobs")
    return (logprobs["content"] or []) if logprobs else []


def _dumped(given: object) -> object:
    """Return a part of the request as it was sent."""
    if isinstance(given, Received):
        return given.model_dump(by_alias=True, exclude_unset=True)
    return given


def _returned(given: object, otherwise: object) -> object:
    """Return a part of the request, or something else if it has too much in it."""
    inner, num_values, num_characters = [given], 0, 0
    while inner:
        one = inner.pop()
        parts = one if isinstance(one, list) else []
        if isinstance(one, dict):
            parts = [*one.values()]
            num_characters += sum(map(len, one))
        elif isinstance(one, str):
            num_characters += len(one)
        num_values += len(parts)
        if num_values > MAX_RETURNED or num_characters > MAX_RETURNED_CHARACTERS:
            return otherwise
        inner += parts
    return given


def _usage(usage: CompletionUsage) -> JsonObject:
    # Upstream servers may send null.
    details: Mapping[str, Any] = usage.get("prompt_tokens_details") or {}
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": 0, **details, "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["total_tokens"],
    }
