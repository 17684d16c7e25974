"""OpenAI's chat completions, whole or in chunks, from an engine's outputs, tool calls included."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from potstill.thinking import ThinkFormat, ThinkParser, joined
from potstill.tools.formats import ToolFormat
from potstill.tools.parsing import CallBegins, Piece, PlainText, ToolCallParser
from serve.backends.local.generation import TimedGeneration, token_logprobs
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
    Ending,
    FinishReason,
    ToolCall,
)


class LocalChatReply:
    """One answer being generated: call `complete` or `chunks`, not both.

    Args:
        formats: How the model writes calls of tools, and its thinking, if it does.
        opened: Whether the prompt ends inside the thinking.
        verbose: Value of `__verbose` in the answer; None leaves it out.
    """

    def __init__(
        self,
        request: ChatRequest,
        generation: TimedGeneration,
        model: GgufModel,
        formats: tuple[ToolFormat, ThinkFormat | None],
        *,
        opened: bool = False,
        fingerprint: str,
        verbose: Mapping[str, Any] | None = None,
    ) -> None:
        self._request, self._generation, self._model = request, generation, model
        self._choices = [
            _Choice(request, model, formats, opened=opened) for _ in range(request.n or 1)
        ]
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
                    **choice.ending,
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
        """Yield the role of each choice, its text and calls, its finish reason, and the usage.

        Raises:
            BackendError: The engine failed.
        """
        for index in range(len(self._choices)):
            yield self._chunk(index, {"role": "assistant", "content": "", "refusal": None})
        async for index, output in self._generation:
            for num_read in output.prompt_progress:
                progress = self._generation.prompt_progress(num_read)
                yield {**self._bare_chunk(), "prompt_progress": progress}
            deltas = self._choices[index].take(output)
            if output.logprobs and not deltas:
                deltas = [{"content": ""}]
            logprobs = self._logprobs(output.logprobs)
            for delta in deltas:
                yield self._timed(self._chunk(index, delta, logprobs))
                logprobs = None
            if reason := self._choices[index].finish_reason:
                yield self._chunk(index, {}, reason=reason, ending=self._choices[index].ending)
        yield self._timed({**self._bare_chunk(), "usage": self._generation.usage})

    def cancel(self) -> None:
        """Stop what still works."""
        self._generation.cancel()

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        logprobs: ChoiceLogprobs | None = None,
        reason: FinishReason | None = None,
        ending: Ending | None = None,
    ) -> ChatCompletionChunk:
        choice: dict[str, object] = {"index": index, "delta": delta, "logprobs": logprobs}
        choice |= {"finish_reason": reason, **(ending or {})}
        return {**self._bare_chunk(), "choices": [choice]}  # type: ignore[list-item]

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
    """One of the `n` answers: its text so far, with the thinking and the calls found in it."""

    def __init__(
        self,
        request: ChatRequest,
        model: GgufModel,
        formats: tuple[ToolFormat, ThinkFormat | None],
        *,
        opened: bool,
    ) -> None:
        tool_format, think_format = formats
        self._format = tool_format
        self._thinking: list[str] = []
        self._shows_thinking = request.include_reasoning is not False
        self._think_parser = None
        if think_format is not None and request.reasoning_format != "none":
            self._think_parser = ThinkParser(think_format, opened=opened)
        self._parser = ToolCallParser(tool_format) if request.callable_tools else None
        self._max_calls = 1 if request.parallel_tool_calls is False else None
        # The opening of a family's calls may be a token without text.
        self._opening_id = model.control_tokens.get(tool_format.opening)
        self._text: list[str] = []
        self._calls: list[ToolCall] = []
        self._num_calls = 0
        self.finish_reason: FinishReason | None = None
        self.ending: Ending = {}

    @property
    def message(self) -> AnswerMessage:
        """The message so far."""
        text = "".join(self._text)
        message: AnswerMessage = {"role": "assistant", "content": text, "refusal": None}
        if self._calls:
            message["content"] = text.strip() or None
            message["tool_calls"] = self._calls
        if self._thinking:
            message["reasoning_content"] = message["reasoning"] = "".join(self._thinking)
        return message

    def take(self, output: Output) -> list[dict[str, Any]]:
        """Add an output; return what it adds, as OpenAI's deltas."""
        text = output.text
        if self._parser is not None and self._opening_id in output.token_ids:
            text = self._format.opening + text
        is_cut = output.finish_reason == "length"
        thinking, answer = self._split(text, is_last=output.is_last, is_cut=is_cut)
        deltas = [{"reasoning_content": thinking, "reasoning": thinking}] if thinking else []
        deltas += [delta for piece in answer if (delta := self._delta(piece)) is not None]
        if output.finish_reason:
            called = self._calls and output.finish_reason == "stop"
            self.finish_reason = "tool_calls" if called else output.finish_reason
        if output.stop is not None:
            self.ending = {"stop_reason": output.stop}
        return deltas

    def _split(self, text: str, *, is_last: bool, is_cut: bool) -> tuple[str, list[Piece]]:
        """Return the thinking in a piece of the answer, and what the rest of it consists of."""
        thinking = ""
        if self._think_parser is not None:
            written = self._think_parser.push(text)
            written += self._think_parser.finish() if is_last else []
            thinking, text = joined(written)
        if not self._shows_thinking:
            thinking = ""
        elif thinking:
            self._thinking.append(thinking)
        if self._parser is None:
            return thinking, [PlainText(text)] if text else []
        pieces = self._parser.push(text) if text else []
        return thinking, pieces + (self._parser.finish(is_cut=is_cut) if is_last else [])

    def _delta(self, piece: Piece) -> dict[str, Any] | None:
        if isinstance(piece, PlainText):
            self._text.append(piece.text)
            return {"content": piece.text}
        if isinstance(piece, CallBegins):
            self._num_calls += 1
        if self._max_calls is not None and self._num_calls > self._max_calls:
            return None
        if isinstance(piece, CallBegins):
            call: ToolCall = {
                "id": self._format.new_call_id(),
                "type": "function",
                "function": {"name": piece.name, "arguments": ""},
            }
            self._calls.append(call)
            begun = {**call, "index": len(self._calls) - 1, "function": {**call["function"]}}
            return {"tool_calls": [begun]}
        self._calls[-1]["function"]["arguments"] += piece.text
        index = len(self._calls) - 1
        return {"tool_calls": [{"index": index, "function": {"arguments": piece.text}}]}
