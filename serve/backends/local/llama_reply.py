"""From an engine's outputs to the answer of llama.cpp's `/completion`, whole or in chunks.

In: the generation behind one prompt. Out: its JSON. Knows nothing of routes or sockets.
Source: llama.cpp 0c1e57098, tools/server/README.md, POST /completion.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from serve.backends.local.generation import TimedGeneration, token_logprobs
from serve.engine.model import GgufModel
from serve.engine.request import Output, Request
from serve.wire.llama import LlamaCompletionRequest
from serve.wire.shared import JsonObject, TokenLogprob

STOP_TYPES = {"stop": "eos", "length": "limit"}


class LlamaReply:
    """The answer to one prompt in the making: `complete` or `chunks`, not both."""

    def __init__(
        self,
        body: LlamaCompletionRequest,
        request: Request,
        generation: TimedGeneration,
        model: GgufModel,
        *,
        index: int,
    ) -> None:
        self._body = body
        self._request = request
        self._generation = generation
        self._model = model
        self._index = index
        self._text = ""
        self._token_ids: list[int] = []
        self._probabilities: list[JsonObject] = []
        self._reason = "length"

    async def complete(self) -> JsonObject:
        """Wait for the whole completion.

        Raises:
            BackendError: The engine failed.
        """
        async for _, output in self._generation:
            self._take(output)
        return self._last(self._text, self._token_ids if self._body.return_tokens else [])

    async def chunks(self) -> AsyncIterator[JsonObject]:
        """Yield the completion as it comes; the last chunk tells how it ended.

        Raises:
            BackendError: The engine failed.
        """
        async for _, output in self._generation:
            probabilities = self._take(output)
            if output.text or output.token_ids:
                chunk: JsonObject = {
                    "index": self._index,
                    "content": output.text,
                    "tokens": list(output.token_ids),
                    "stop": False,
                    "id_slot": -1,
                    "tokens_predicted": len(self._token_ids),
                    "tokens_evaluated": len(self._request.prompt_token_ids),
                }
                if self._body.n_probs:
                    chunk["completion_probabilities"] = probabilities
                if not output.is_last or probabilities or output.text:
                    yield chunk
        yield self._last("", [])

    def cancel(self) -> None:
        """Free what still works."""
        self._generation.cancel()

    def _take(self, output: Output) -> list[JsonObject]:
        self._text += output.text
        self._token_ids += output.token_ids
        self._reason = output.finish_reason or self._reason
        entries = token_logprobs(self._model, output.logprobs)
        show = _as_probability if self._body.post_sampling_probs else dict
        shown: list[JsonObject] = [show(entry) for entry in entries]
        self._probabilities += shown
        return shown

    def _last(self, text: str, token_ids: Sequence[int]) -> JsonObject:
        timings = self._generation.timings
        answer: JsonObject = {
            "index": self._index,
            "content": text,
            "tokens": list(token_ids),
            "id_slot": -1,
            "stop": True,
            "model": self._body.model or "",
            "tokens_predicted": len(self._token_ids),
            "tokens_evaluated": len(self._request.prompt_token_ids),
            "generation_settings": self._settings(),
            "prompt": self._model_text(self._request.prompt_token_ids),
            "has_new_line": "\n" in self._text,
            "truncated": False,
            "stop_type": self._stop_type(),
            "stopping_word": "",
            "tokens_cached": timings["cache_n"],
            "timings": timings,
        }
        if self._body.n_probs and not self._body.stream:
            answer["completion_probabilities"] = self._probabilities
        return _selected(answer, self._body.response_fields or [])

    def _stop_type(self) -> str:
        if self._reason == "stop" and self._token_ids:
            ended = self._model.ends_generation(self._token_ids[-1])
            return "eos" if ended else "word"
        return STOP_TYPES[self._reason]

    def _settings(self) -> JsonObject:
        limit = self._request.max_new_tokens
        return {
            **asdict(self._request.sampler),
            "logit_bias": [],
            "n_predict": -1 if limit is None else limit,
            "max_tokens": -1 if limit is None else limit,
            "stop": list(self._request.stop),
            "n_probs": self._body.n_probs or 0,
            "ignore_eos": self._request.ignore_eos,
            "stream": bool(self._body.stream),
            "grammar": self._request.grammar or "",
        }

    def _model_text(self, token_ids: Sequence[int]) -> str:
        return b"".join(map(self._model.piece, token_ids)).decode(errors="replace")


class LlamaReplies:
    """The replies to the prompts of one request; a stream has one prompt."""

    def __init__(self, replies: Sequence[LlamaReply]) -> None:
        self._replies = replies

    async def complete(self) -> list[JsonObject]:
        """Wait for all completions; raises as `LlamaReply.complete` does."""
        return list(await asyncio.gather(*(reply.complete() for reply in self._replies)))

    def chunks(self) -> AsyncIterator[JsonObject]:
        """Yield the completion of the only prompt."""
        return self._replies[0].chunks()

    def cancel(self) -> None:
        """Free what still works."""
        for reply in self._replies:
            reply.cancel()


def _as_probability(entry: TokenLogprob) -> JsonObject:
    """Show a token with the probabilities that it was drawn by."""

    def shown(one: Mapping[str, Any]) -> JsonObject:
        return {
            "id": one["id"],
            "token": one["token"],
            "bytes": one["bytes"],
            "prob": math.exp(one["logprob"]),
        }

    return {**shown(entry), "top_probs": [shown(rival) for rival in entry["top_logprobs"]]}


def _selected(answer: JsonObject, fields: Sequence[str]) -> JsonObject:
    """Keep only some fields, those inside others by their path; no fields means all."""
    if not fields:
        return answer
    selected: JsonObject = {}
    for path in fields:
        value: Any = answer
        for name in path.split("/"):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            selected[path] = value
    return selected
