"""From an engine's outputs to OpenAI's completion of plain text, whole or in chunks.

In: the generation behind one request. Out: a `Completion`. Knows nothing of routes or sockets.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from serve.backends.local.generation import TimedGeneration, finite, token_logprob
from serve.engine.model import GgufModel
from serve.engine.request import Output
from serve.engine.sampler import SampledLogprob
from serve.wire.completions import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
)

UNPREDICTED = 0.0
"""Stands for the log-probability of a prompt's first token, which has none: OpenAI's types have no
null here."""


@dataclass
class _Choice:
    """One completion so far."""

    prompt_text: str
    prompt_token_ids: Sequence[int]
    text: str = ""
    logprobs: list[SampledLogprob] = field(default_factory=list)
    prompt_logprobs: Sequence[SampledLogprob | None] = ()
    finish_reason: Literal["stop", "length"] | None = None
    num_characters: int = 0
    """Of the tokens shown so far: where the next one begins."""

    @property
    def mean_logprob(self) -> float:
        total = sum(entry.logprob for entry in self.logprobs)
        return total / max(1, len(self.logprobs))


class LocalTextReply:
    """One answer in the making: `complete` or `chunks`, not both."""

    def __init__(
        self,
        request: CompletionRequest,
        generation: TimedGeneration,
        model: GgufModel,
        prompts: Sequence[Sequence[int]],
        *,
        fingerprint: str,
    ) -> None:
        self._request = request
        self._generation = generation
        self._model = model
        self._num_choices = request.num_choices
        self._choices = [
            _Choice(self._prompt_text(token_ids), token_ids)
            for token_ids in prompts
            for _ in range(self._num_choices)
        ]
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": request.model or "",
            "system_fingerprint": fingerprint,
        }

    def _prompt_text(self, token_ids: Sequence[int]) -> str:
        if not self._request.echo:
            return ""
        return b"".join(self._model.piece(token_id) for token_id in token_ids).decode(
            errors="replace"
        )

    async def complete(self) -> Completion:
        """Wait for all choices; of `best_of`, the likeliest `n` are returned.

        Raises:
            BackendError: The engine failed.
        """
        async for index, output in self._generation:
            self._take(index, output)
        kept = self._kept()
        choices = [self._whole(index, choice) for index, choice in enumerate(kept)]
        return self._completion(choices, usage=True)

    async def chunks(self) -> AsyncIterator[Completion]:
        """Yield the answer as it comes.

        Raises:
            BackendError: The engine failed.
        """
        echoed: set[int] = set()
        async for index, output in self._generation:
            choice = self._choices[index]
            self._take(index, output)
            text, entries = output.text, list(output.logprobs)
            logprobs = self._logprobs(choice, entries, with_prompt=index not in echoed)
            if index not in echoed:
                text = choice.prompt_text + text
                echoed.add(index)
            if text or entries:
                yield self._completion([self._piece(index, text, logprobs, None)])
            if output.finish_reason:
                yield self._completion([self._piece(index, "", None, output.finish_reason)])
        yield self._completion([], usage=True)

    def cancel(self) -> None:
        """Free what still works."""
        self._generation.cancel()

    def _take(self, index: int, output: Output) -> None:
        choice = self._choices[index]
        choice.text += output.text
        choice.logprobs += output.logprobs
        if output.prompt_logprobs is not None:
            choice.prompt_logprobs = output.prompt_logprobs
        choice.finish_reason = output.finish_reason

    def _kept(self) -> list[_Choice]:
        """Return the `n` best choices of each prompt."""
        num_kept = self._request.n or 1
        if num_kept == self._num_choices:
            return self._choices
        kept: list[_Choice] = []
        for start in range(0, len(self._choices), self._num_choices):
            rivals = self._choices[start : start + self._num_choices]
            kept += sorted(rivals, key=lambda choice: -choice.mean_logprob)[:num_kept]
        return kept

    def _whole(self, index: int, choice: _Choice) -> CompletionChoice:
        logprobs = self._logprobs(choice, choice.logprobs, with_prompt=True)
        text = choice.prompt_text + choice.text
        return self._piece(index, text, logprobs, choice.finish_reason or "stop")

    @staticmethod
    def _piece(
        index: int,
        text: str,
        logprobs: CompletionLogprobs | None,
        reason: Literal["stop", "length"] | None,
    ) -> CompletionChoice:
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _completion(self, choices: list[CompletionChoice], *, usage: bool = False) -> Completion:
        completion: Completion = {**self._head, "choices": choices}  # type: ignore[typeddict-item]
        if usage:
            completion["usage"] = self._generation.usage
            if self._request.timings_per_token:
                completion["timings"] = self._generation.timings
        return completion

    def _logprobs(
        self, choice: _Choice, entries: Sequence[SampledLogprob], *, with_prompt: bool
    ) -> CompletionLogprobs | None:
        if self._request.logprobs is None:
            return None
        shown: CompletionLogprobs = {
            "tokens": [],
            "token_logprobs": [],
            "top_logprobs": [],
            "text_offset": [],
        }
        if with_prompt and self._request.echo:
            for token_id, known in zip(
                choice.prompt_token_ids, choice.prompt_logprobs, strict=False
            ):
                self._show(choice, shown, token_id, known)
        for entry in entries:
            self._show(choice, shown, entry.token_id, entry)
        if not self._request.logprobs:
            shown["top_logprobs"] = None
        return shown

    def _show(
        self,
        choice: _Choice,
        shown: CompletionLogprobs,
        token_id: int,
        entry: SampledLogprob | None,
    ) -> None:
        text = token_logprob(self._model, token_id, 0.0)["token"]
        shown["tokens"].append(text)
        shown["token_logprobs"].append(finite(entry.logprob) if entry else UNPREDICTED)
        shown["text_offset"].append(choice.num_characters)
        choice.num_characters += len(text)
        if shown["top_logprobs"] is not None:
            shown["top_logprobs"].append(self._rivals(entry) if entry else {})

    def _rivals(self, entry: SampledLogprob) -> dict[str, float]:
        """Return the most probable tokens by what they write: of two alike, the likelier one."""
        return {
            token_logprob(self._model, token_id, logprob)["token"]: finite(logprob)
            for token_id, logprob in reversed(entry.top)
        }
