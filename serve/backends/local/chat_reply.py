"""From an engine's outputs to OpenAI's chat answer, whole or in chunks.

In: the generation behind one request. Out: a `ChatCompletion`, or its chunks; calls of tools are
found in the text on the way. Knows nothing of routes or sockets.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from serve.backends.local.generation import TimedGeneration, token_logprobs
from serve.chat.tool_calls import CallBegins, Piece, PlainText, ToolCallParser
from serve.chat.tools import ToolFormat
from serve.engine.model import GgufModel
from serve.engine.request import Output
from serve.engine.sampler import SampledLogprob
from serve.wire.chat import (
    AnswerHead,
    AnswerMessage,
    ChatCompletion,
    ChatCompletionChunk,
    ChatRequest,
    ChoiceLogprobs,
    ChunkChoice,
    FinishReason,
    ToolCall,
)


class LocalChatReply:
    """One answer in the making: `complete` or `chunks`, not both.

    Args:
        verbose: What the answer tells under `__verbose`; None tells nothing.
    """

    def __init__(
        self,
        request: ChatRequest,
        generation: TimedGeneration,
        model: GgufModel,
        tool_format: ToolFormat,
        *,
        fingerprint: str,
        verbose: Mapping[str, Any] | None = None,
    ) -> None:
        self._request = request
        self._generation = generation
        self._model = model
        self._choices = [_Choice(request, model, tool_format) for _ in range(request.n or 1)]
        self._verbose = verbose
        self._head: AnswerHead = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": request.model or "",
            "system_fingerprint": fingerprint,
        }

    async def complete(self) -> ChatCompletion:
        """Wait for all choices.

        Raises:
            BackendError: The engine failed.
        """
        logprobs: list[list[SampledLogprob]] = [[] for _ in self._choices]
        async for index, output in self._generation:
            self._choices[index].take(output)
            logprobs[index] += output.logprobs
        completion: ChatCompletion = {
            **self._head,  # type: ignore[typeddict-item]
            "object": "chat.completion",
            "choices": [
                {
                    "index": index,
                    "message": choice.message,
                    "logprobs": self._logprobs(logprobs[index]),
                    "finish_reason": choice.finish_reason or "stop",
                }
                for index, choice in enumerate(self._choices)
            ],
            "usage": self._generation.usage,
        }
        if self._request.timings_per_token:
            completion["timings"] = self._generation.timings
        if self._verbose is not None:
            completion["__verbose"] = self._verbose  # type: ignore[typeddict-unknown-key]
        return completion

    async def chunks(self) -> AsyncIterator[ChatCompletionChunk]:
        """Yield the role of each choice, then what it says, its finish reason, and the usage.

        Raises:
            BackendError: The engine failed.
        """
        for index in range(len(self._choices)):
            yield self._chunk(index, {"role": "assistant", "content": None, "refusal": None})
        async for index, output in self._generation:
            for num_read in output.prompt_progress:
                progress = self._generation.prompt_progress(num_read)
                yield {**self._bare_chunk(), "prompt_progress": progress}
            deltas = self._choices[index].take(output)
            if output.logprobs and not deltas:
                deltas = [{"content": ""}]
            logprobs = self._logprobs(output.logprobs)
            for delta in deltas:
                yield self._chunk(index, delta, logprobs, timed=True)
                logprobs = None
            reason = self._choices[index].finish_reason
            if reason:
                yield self._chunk(index, {}, reason=reason)
        yield self._timed({**self._bare_chunk(), "usage": self._generation.usage})

    def cancel(self) -> None:
        """Free what still works."""
        self._generation.cancel()

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        logprobs: ChoiceLogprobs | None = None,
        *,
        reason: FinishReason | None = None,
        timed: bool = False,
    ) -> ChatCompletionChunk:
        choice: ChunkChoice = {
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": reason,
        }
        chunk: ChatCompletionChunk = {**self._bare_chunk(), "choices": [choice]}
        return self._timed(chunk) if timed else chunk

    def _bare_chunk(self) -> ChatCompletionChunk:
        return {**self._head, "object": "chat.completion.chunk", "choices": []}  # type: ignore[typeddict-item]

    def _timed(self, chunk: ChatCompletionChunk) -> ChatCompletionChunk:
        if self._request.timings_per_token:
            chunk["timings"] = self._generation.timings
        return chunk

    def _logprobs(self, entries: Sequence[SampledLogprob]) -> ChoiceLogprobs | None:
        if not self._request.logprobs:
            return None
        return {"content": token_logprobs(self._model, entries), "refusal": None}


class _Choice:
    """One of the `n` answers: its text so far, with the calls found in it."""

    def __init__(self, request: ChatRequest, model: GgufModel, tool_format: ToolFormat) -> None:
        self._format = tool_format
        self._parser = ToolCallParser(tool_format) if request.callable_tools else None
        self._max_calls = 1 if request.parallel_tool_calls is False else None
        # A family's opening may be a token that writes nothing.
        self._opening_id = model.control_tokens.get(tool_format.opening)
        self._text: list[str] = []
        self._calls: list[ToolCall] = []
        self._num_calls = 0
        self.finish_reason: FinishReason | None = None

    @property
    def message(self) -> AnswerMessage:
        """The message so far."""
        text = "".join(self._text)
        message: AnswerMessage = {"role": "assistant", "content": text, "refusal": None}
        if self._calls:
            message["content"] = text.strip() or None
            message["tool_calls"] = self._calls
        return message

    def take(self, output: Output) -> list[dict[str, Any]]:
        """Take in an output; return what it adds, as OpenAI's deltas."""
        if self._parser is None:
            pieces: list[Piece] = [PlainText(output.text)] if output.text else []
        else:
            opened = self._opening_id is not None and self._opening_id in output.token_ids
            text = (self._format.opening if opened else "") + output.text
            pieces = self._parser.push(text) if text else []
            if output.is_last:
                pieces += self._parser.finish()
        deltas = [delta for piece in pieces if (delta := self._delta(piece)) is not None]
        if output.finish_reason:
            called = self._calls and output.finish_reason == "stop"
            self.finish_reason = "tool_calls" if called else output.finish_reason
        return deltas

    def _delta(self, piece: Piece) -> dict[str, Any] | None:
        if isinstance(piece, PlainText):
            self._text.append(piece.text)
            return {"content": piece.text}
        if isinstance(piece, CallBegins):
            self._num_calls += 1
        if self._max_calls is not None and self._num_calls > self._max_calls:
            return None
        if isinstance(piece, CallBegins):
            function = {"name": piece.name, "arguments": ""}
            call_id = self._format.new_call_id()
            call: ToolCall = {"id": call_id, "type": "function", "function": {**function}}  # type: ignore[typeddict-item]
            self._calls.append(call)
            begun = {"index": len(self._calls) - 1, "id": call_id, "type": "function"}
            return {"tool_calls": [{**begun, "function": function}]}
        self._calls[-1]["function"]["arguments"] += piece.text
        index = len(self._calls) - 1
        return {"tool_calls": [{"index": index, "function": {"arguments": piece.text}}]}
