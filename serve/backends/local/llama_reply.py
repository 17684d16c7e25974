"""Answers of llama.cpp's `/completion`, whole or in chunks, from an engine's outputs.

Source: llama.cpp 0c1e57098, tools/server/README.md, POST /completion.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from serve.backends.local.generation import TimedGeneration, text_of, token_logprobs
from serve.engine.model import GgufModel
from serve.engine.request import Output, Request
from serve.wire.llama import LlamaCompletionRequest
from serve.wire.shared import JsonObject, TokenLogprob

STOP_TYPES = {"stop": "eos", "length": "limit"}


@dataclass
class LlamaReply:
    """The answer to one prompt being generated: call `complete` or `chunks`, not both."""

    body: LlamaCompletionRequest
    request: Request
    generation: TimedGeneration
    model: GgufModel
    index: int
    _text: str = field(default="", init=False)
    _token_ids: list[int] = field(default_factory=list, init=False)
    _probabilities: list[JsonObject] = field(default_factory=list, init=False)
    _reason: str = field(default="length", init=False)
    _stop: str = field(default="", init=False)

    async def complete(self) -> JsonObject:
        """Wait for the whole completion.

        Raises:
            BackendError: The engine failed.
        """
        async for _, output in self.generation:
            self._take(output)
        return self._last(self._text, self._token_ids if self.body.return_tokens else [])

    async def chunks(self) -> AsyncIterator[JsonObject]:
        """Yield the completion as it is generated; the last chunk has its statistics.

        Raises:
            BackendError: The engine failed.
        """
        async for _, output in self.generation:
            probabilities = self._take(output)
            if output.text or output.token_ids:
                chunk: JsonObject = {
                    "index": self.index,
                    "content": output.text,
                    "tokens": list(output.token_ids),
                    "stop": False,
                    "id_slot": -1,
                    "tokens_predicted": len(self._token_ids),
                    "tokens_evaluated": len(self.request.prompt_token_ids),
                }
                if self.body.n_probs:
                    chunk["completion_probabilities"] = probabilities
                if not output.is_last or probabilities or output.text:
                    yield chunk
        yield self._last("", [])

    def cancel(self) -> None:
        """Stop what still works."""
        self.generation.cancel()

    def _take(self, output: Output) -> list[JsonObject]:
        self._text += output.text
        self._token_ids += output.token_ids
        self._reason = output.finish_reason or self._reason
        self._stop = output.stop or self._stop
        entries = token_logprobs(self.model, output.logprobs)
        show = _as_probability if self.body.post_sampling_probs else dict
        shown: list[JsonObject] = [show(entry) for entry in entries]
        self._probabilities += shown
        return shown

    def _last(self, text: str, token_ids: Sequence[int]) -> JsonObject:
        timings = self.generation.timings
        answer: JsonObject = {
            "index": self.index,
            "content": text,
            "tokens": list(token_ids),
            "id_slot": -1,
            "stop": True,
            "model": self.body.model or "",
            "tokens_predicted": len(self._token_ids),
            "tokens_evaluated": len(self.request.prompt_token_ids),
            "generation_settings": self._settings(),
            "prompt": text_of(self.model, self.request.prompt_token_ids),
            "has_new_line": "\n" in self._text,
            "truncated": False,
            "stop_type": self._stop_type(),
            "stopping_word": self._stop,
            "tokens_cached": timings["cache_n"],
            "timings": timings,
        }
        if self.body.n_probs and not self.body.stream:
            answer["completion_probabilities"] = self._probabilities
        return _selected(answer, self.body.response_fields or [])

    def _stop_type(self) -> str:
        if self._reason == "stop" and self._token_ids:
            ended = self.model.ends_generation(self._token_ids[-1])
            return "eos" if ended else "word"
        return STOP_TYPES[self._reason]

    def _settings(self) -> JsonObject:
        limit = self.request.max_new_tokens
        return {
            **asdict(self.request.sampler),
            "logit_bias": [],
            "n_predict": -1 if limit is None else limit,
            "max_tokens": -1 if limit is None else limit,
            "stop": list(self.request.stop),
            "n_probs": self.body.n_probs or 0,
            "ignore_eos": self.request.ignore_eos,
            "stream": bool(self.body.stream),
            "grammar": self.body.grammar or "",
        }


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
        """Stop what still works."""
        for reply in self._replies:
            reply.cancel()


def _as_probability(entry: TokenLogprob) -> JsonObject:
    """Return a token with the probabilities that it was drawn by."""

    def shown(one: Mapping[str, Any]) -> JsonObject:
        return {
            "id": one["id"],
            "token": one["token"],
            "bytes": one["bytes"],
            "prob": math.exp(one["logprob"]),
        }

    return {**shown(entry), "top_probs": [shown(rival) for rival in entry["top_logprobs"]]}


def _selected(answer: JsonObject, fields: Sequence[str]) -> JsonObject:
    """Return only some fields, nested ones by their path; all, if none are named."""
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
