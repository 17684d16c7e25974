"""From an engine's outputs to OpenAI's answer, whole or streamed.

In: the generation behind one request. Out: a `ChatCompletion`, or server-sent events.
Knows nothing of routes or sockets.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from potstill.errors import PotstillError
from serve.api.http_errors import error_body
from serve.api.wire import (
    AnswerHead,
    ChatCompletion,
    ChatRequest,
    Choice,
    ChoiceLogprobs,
    CompletionUsage,
    TopLogprob,
)
from serve.engine.model import GgufModel
from serve.engine.request import Output
from serve.engine.sampler import SampledLogprob
from serve.engine.thread import Generation


class ChatAnswer:
    """One answer in the making: `complete` or `stream`, not both."""

    def __init__(
        self,
        request: ChatRequest,
        generation: Generation,
        model: GgufModel,
        *,
        num_prompt_tokens: int,
        fingerprint: str,
    ) -> None:
        self._request = request
        self._generation = generation
        self._model = model
        self._num_prompt_tokens = num_prompt_tokens
        self._outputs: list[list[Output]] = [[] for _ in range(request.n or 1)]
        self._num_new_tokens = 0
        self._num_cached_tokens = 0
        self._head: AnswerHead = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": request.model,
            "system_fingerprint": fingerprint,
        }

    async def complete(self) -> ChatCompletion:
        """Wait for all choices.

        Raises:
            BackendError: The engine failed.
        """
        async for index, output in self._generation:
            self._take(index, output)
        return self.completion()

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield server-sent events: role, text, finish reason, perhaps usage, then [DONE]."""
        try:
            for index in range(self._request.n or 1):
                yield self._event(index, {"role": "assistant", "content": "", "refusal": None})
            async for index, output in self._generation:
                self._take(index, output)
                if output.text or output.logprobs:
                    logprobs = self._logprobs(output.logprobs)
                    yield self._event(index, {"content": output.text}, logprobs=logprobs)
                if output.finish_reason:
                    yield self._event(index, {}, finish_reason=output.finish_reason)
            if self._request.streams_usage:
                yield self._chunk([], self._usage())
        except PotstillError as error:
            yield _server_sent(error_body(error))
        yield b"data: [DONE]\n\n"

    @property
    def is_whole(self) -> bool:
        """Whether all choices have come to their end."""
        return all(parts and parts[-1].finish_reason for parts in self._outputs)

    def completion(self) -> ChatCompletion:
        """Return what has come so far as one answer, streamed or not."""
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [self._choice(index, parts) for index, parts in enumerate(self._outputs)],
            "usage": self._usage(),
        }

    def _take(self, index: int, output: Output) -> None:
        self._outputs[index].append(output)
        self._num_new_tokens += output.num_new_tokens
        self._num_cached_tokens = max(self._num_cached_tokens, output.num_cached_tokens)

    def _choice(self, index: int, parts: list[Output]) -> Choice:
        return {
            "index": index,
            "message": {
                "role": "assistant",
                "content": "".join(part.text for part in parts),
                "refusal": None,
            },
            "logprobs": self._logprobs(tuple(entry for part in parts for entry in part.logprobs)),
            "finish_reason": parts[-1].finish_reason or "stop",
        }

    def _event(
        self,
        index: int,
        delta: dict[str, str | None],
        *,
        logprobs: ChoiceLogprobs | None = None,
        finish_reason: str | None = None,
    ) -> bytes:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        return self._chunk([choice], None)

    def _chunk(self, choices: list[dict[str, Any]], usage: CompletionUsage | None) -> bytes:
        # Plain dictionaries here: a pydantic model per token would double the cost of streaming.
        chunk: dict[str, Any] = {
            **self._head,
            "object": "chat.completion.chunk",
            "choices": choices,
        }
        if self._request.streams_usage:
            chunk["usage"] = usage
        return _server_sent(chunk)

    def _logprobs(self, entries: tuple[SampledLogprob, ...]) -> ChoiceLogprobs | None:
        if not self._request.logprobs:
            return None
        return {
            "content": [
                {
                    **self._token(entry.token_id, entry.logprob),
                    "top_logprobs": [self._token(*rival) for rival in entry.top],
                }
                for entry in entries
            ],
            "refusal": None,
        }

    def _token(self, token_id: int, logprob: float) -> TopLogprob:
        piece = self._model.piece(token_id)
        return {
            "id": token_id,
            "token": piece.decode(errors="replace"),
            "logprob": logprob,
            "bytes": list(piece),
        }

    def _usage(self) -> CompletionUsage:
        return {
            "prompt_tokens": self._num_prompt_tokens,
            "completion_tokens": self._num_new_tokens,
            "total_tokens": self._num_prompt_tokens + self._num_new_tokens,
            "prompt_tokens_details": {"cached_tokens": self._num_cached_tokens},
        }


def _server_sent(content: object) -> bytes:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return b"data: " + text.encode() + b"\n\n"
