"""Conversions between whole chat completions and the chunks of streamed ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from serve.errors import UpstreamError
from serve.wire.chat import (
    AnswerMessage,
    ChatCompletion,
    ChatCompletionChunk,
    Choice,
    ChoiceLogprobs,
    ChunkChoice,
    Ending,
    FinishReason,
    FunctionCall,
    ToolCall,
)
from serve.wire.shared import CompletionUsage

REASONING: tuple[Literal["reasoning_content"], Literal["reasoning"]] = (
    "reasoning_content",
    "reasoning",
)
"""Both spellings of a message's thinking."""
NO_USAGE: CompletionUsage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def thinking_in(said: Mapping[str, Any]) -> str:
    """Return the thinking of a message or a piece of it; it may come under both of its names."""
    return next((said[name] for name in REASONING if said.get(name)), "")


class ChunkAssembler:
    """Builds a completion from its chunks, in time that is linear in their number."""

    def __init__(self) -> None:
        self._choices: dict[int, _ChoiceInPieces] = {}
        self._first: ChatCompletionChunk | None = None
        self._usage = NO_USAGE

    def add(self, chunk: ChatCompletionChunk) -> None:
        """Add the next chunk."""
        self._first = self._first or chunk
        self._usage = chunk.get("usage") or self._usage
        for piece in chunk["choices"]:
            index = piece["index"]
            if index not in self._choices:
                self._choices[index] = _ChoiceInPieces()
            self._choices[index].add(piece)

    @property
    def completion(self) -> ChatCompletion | None:
        """The completion; None while a choice has no finish reason."""
        if self._first is None or not all(one.is_finished for one in self._choices.values()):
            return None
        return {
            "id": self._first["id"],
            "object": "chat.completion",
            "created": self._first["created"],
            "model": self._first["model"],
            "system_fingerprint": self._first.get("system_fingerprint", ""),
            "choices": [self._choices[index].whole(index) for index in sorted(self._choices)],
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


@dataclass
class _CallInPieces:
    """A call of a tool so far."""

    id: str = ""
    name: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)

    def whole(self) -> ToolCall:
        function: FunctionCall = {"name": "".join(self.name), "arguments": "".join(self.arguments)}
        return {"id": self.id, "type": "function", "function": function}


@dataclass
class _ChoiceInPieces:
    """One choice so far: a text that is extended again and again is copied as often."""

    texts: dict[str, list[str]] = field(default_factory=lambda: {"content": []})
    calls: list[_CallInPieces] = field(default_factory=list)
    logprobs: ChoiceLogprobs | None = None
    finish_reason: FinishReason = "stop"
    is_finished: bool = False
    ending: Ending = field(default_factory=lambda: Ending())

    def add(self, piece: ChunkChoice) -> None:
        """Add a piece of it."""
        delta = piece["delta"]
        for name in ("content", *REASONING):
            if more := delta.get(name):
                self.texts.setdefault(name, []).append(more)
        for call in delta.get("tool_calls") or ():
            self._add_call(call)
        if logprobs := piece.get("logprobs"):
            self.logprobs = self.logprobs or {"content": [], "refusal": None}
            self.logprobs["content"].extend(logprobs["content"] or ())
        if reason := piece.get("finish_reason"):
            self.finish_reason, self.is_finished = reason, True
            if "stop_reason" in piece:
                self.ending = {"stop_reason": piece["stop_reason"]}

    def _add_call(self, call: dict[str, Any]) -> None:
        # Upstream servers may leave out the index of an only call, and send null.
        index, function = call.get("index", 0), call.get("function") or {}
        while len(self.calls) <= index:
            self.calls.append(_CallInPieces())
        known = self.calls[index]
        known.id = call.get("id") or known.id
        known.name.append(function.get("name") or "")
        known.arguments.append(function.get("arguments") or "")

    def whole(self, index: int) -> Choice:
        """Return the choice."""
        message: AnswerMessage = {"role": "assistant", "content": "", "refusal": None}
        for name, pieces in self.texts.items():
            message[name] = "".join(pieces)  # type: ignore[literal-required]
        if self.calls:
            message["tool_calls"] = [call.whole() for call in self.calls]
        return {
            "index": index,
            "message": message,
            "logprobs": self.logprobs,
            "finish_reason": self.finish_reason,
            **self.ending,
        }


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
