"""Conversions between whole chat completions and the chunks of streamed ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from serve.errors import UpstreamError
from serve.wire.chat import (
    AnswerMessage,
    ChatCompletion,
    ChatCompletionChunk,
    Choice,
    ChunkChoice,
)
from serve.wire.shared import CompletionUsage

REASONING: tuple[Literal["reasoning_content"], Literal["reasoning"]] = (
    "reasoning_content",
    "reasoning",
)
"""Both spellings of a message's thinking."""
NO_USAGE: CompletionUsage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


class ChunkAssembler:
    """Builds a completion from its chunks."""

    def __init__(self) -> None:
        self._choices: dict[int, Choice] = {}
        self._first: ChatCompletionChunk | None = None
        self._usage = NO_USAGE
        self._num_finished = 0

    def add(self, chunk: ChatCompletionChunk) -> None:
        """Add the next chunk."""
        self._first = self._first or chunk
        self._usage = chunk.get("usage") or self._usage
        for piece in chunk["choices"]:
            self._add(piece)

    @property
    def completion(self) -> ChatCompletion | None:
        """The completion; None while a choice has no finish reason."""
        if self._first is None or self._num_finished < len(self._choices):
            return None
        return {
            "id": self._first["id"],
            "object": "chat.completion",
            "created": self._first["created"],
            "model": self._first["model"],
            "system_fingerprint": self._first.get("system_fingerprint", ""),
            "choices": [self._choices[index] for index in sorted(self._choices)],
            "usage": self._usage,
        }

    def whole(self) -> ChatCompletion:
        """Return the completion when the stream has ended.

        Raises:
            UpstreamError: A choice has no finish reason.
        """
        completion = self.completion
        if completion is None:
            raise UpstreamError("the model's server ended its answer before it was complete")
        return completion

    def _add(self, piece: ChunkChoice) -> None:
        index = piece["index"]
        if index not in self._choices:
            message: AnswerMessage = {"role": "assistant", "content": "", "refusal": None}
            self._choices[index] = {
                "index": index,
                "message": message,
                "logprobs": None,
                "finish_reason": "stop",
            }
        choice = self._choices[index]
        _extend(choice["message"], piece["delta"])
        if logprobs := piece.get("logprobs"):
            known = choice["logprobs"] or {"content": [], "refusal": None}
            known["content"].extend(logprobs["content"] or ())
            choice["logprobs"] = known
        if reason := piece.get("finish_reason"):
            choice["finish_reason"] = reason
            self._num_finished += 1
            if "stop_reason" in piece:
                choice["stop_reason"] = piece["stop_reason"]


def _extend(message: AnswerMessage, delta: dict[str, Any]) -> None:
    message["content"] = (message["content"] or "") + (delta.get("content") or "")
    for name in REASONING:
        if more := delta.get(name):
            message[name] = message.get(name, "") + more
    for call in delta.get("tool_calls") or ():
        calls = message.setdefault("tool_calls", [])
        # Upstream servers may leave out the index of an only call, and send null.
        index, function = call.get("index", 0), call.get("function") or {}
        while len(calls) <= index:
            calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
        known = calls[index]
        known["id"] = call.get("id") or known["id"]
        known["function"]["name"] += function.get("name") or ""
        known["function"]["arguments"] += function.get("arguments") or ""


def as_chunks(completion: ChatCompletion) -> Iterator[ChatCompletionChunk]:
    """Yield the chunks of a completion, usage last."""

    def chunk(**changes: object) -> ChatCompletionChunk:
        head = {name: completion[name] for name in ("id", "created", "model")}
        head["system_fingerprint"] = completion.get("system_fingerprint", "")
        return {**head, "object": "chat.completion.chunk", "choices": [], **changes}  # type: ignore[typeddict-item]

    for choice in completion["choices"]:
        message = choice["message"]
        delta: dict[str, object] = {"role": "assistant", "content": message["content"]}
        delta |= {name: message[name] for name in REASONING if name in message}
        if calls := message.get("tool_calls"):
            delta["tool_calls"] = [{"index": n, **call} for n, call in enumerate(calls)]
        index, logprobs = choice["index"], choice.get("logprobs")
        said = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}
        ended = {"index": index, "delta": {}, "logprobs": None}
        if "stop_reason" in choice:
            ended["stop_reason"] = choice["stop_reason"]
        yield chunk(choices=[said])
        yield chunk(choices=[{**ended, "finish_reason": choice["finish_reason"]}])
    # Upstream servers may leave out the usage, or send null.
    yield chunk(usage=completion.get("usage") or NO_USAGE)
