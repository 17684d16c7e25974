"""OpenAI's text completions, whole or in chunks, from an engine's outputs."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from serve.backends.local.generation import TimedGeneration, finite, text_of, token_logprob
from serve.engine.model import GgufModel
from serve.engine.request import Output
from serve.engine.sampler import SampledLogprob
from serve.wire.completions import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
)


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
    """Length of the tokens shown so far: the offset of the next one."""

    @property
    def mean_logprob(self) -> float:
        total = sum(entry.logprob for entry in self.logprobs)
        return total / max(1, len(self.logprobs))


class LocalTextReply:
    """One answer being generated: call `complete` or `chunks`, not both."""

    def __init__(
        self,
        request: CompletionRequest,
        generation: TimedGeneration,
        model: GgufModel,
        prompts: Sequence[Sequence[int]],
        *,
        fingerprint: str,
    ) -> None:
        self._request, self._generation, self._model = request, generation, model
        self._choices = [
            _Choice(text_of(model, token_ids) if request.echo else "", token_ids)
            for token_ids in prompts
            for _ in range(request.num_choices)
        ]
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": request.model or "",
            "system_fingerprint": fingerprint,
        }

    async def complete(self) -> Completion:
        """Wait for all choices; of `best_of`, the `n` most probable are returned.

        Raises:
            BackendError: The engine failed.
        """
        async for index, output in self._generation:
            self._take(index, output)
        choices = [
            _piece(
                index,
                choice.prompt_text + choice.text,
                self._logprobs(choice, choice.logprobs, with_prompt=True),
                choice.finish_reason or "stop",
            )
            for index, choice in enumerate(self._kept())
        ]
        return self._completion(choices, is_last=True)

    async def chunks(self) -> AsyncIterator[Completion]:
        """Yield the answer as it is generated, and the usage.

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
                yield self._completion([_piece(index, text, logprobs, None)])
            if output.finish_reason:
                yield self._completion([_piece(index, "", None, output.finish_reason)])
        yield self._completion([], is_last=True)

    def cancel(self) -> None:
        """Stop what still works."""
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
        num_kept, num_made = self._request.n or 1, self._request.num_choices
        if num_kept == num_made:
            return self._choices
        kept: list[_Choice] = []
        for start in range(0, len(self._choices), num_made):
            rivals = self._choices[start : start + num_made]
            kept += sorted(rivals, key=lambda choice: -choice.mean_logprob)[:num_kept]
        return kept

    def _completion(self, choices: list[CompletionChoice], *, is_last: bool = False) -> Completion:
        completion: Completion = {**self._head, "choices": choices}  # type: ignore[typeddict-item]
        if is_last:
            completion["usage"] = self._generation.usage
            if self._request.timings_per_token:
                completion["timings"] = self._generation.timings
        return completion

    def _logprobs(
        self, choice: _Choice, entries: Sequence[SampledLogprob], *, with_prompt: bool
    ) -> CompletionLogprobs | None:
        if self._request.logprobs is None:
            return None
        known: list[tuple[int, SampledLogprob | None]] = []
        if with_prompt and self._request.echo:
            known += zip(choice.prompt_token_ids, choice.prompt_logprobs, strict=False)
        known += [(entry.token_id, entry) for entry in entries]
        tokens = [text_of(self._model, [token_id]) for token_id, _ in known]
        offsets = []
        for token in tokens:
            offsets.append(choice.num_characters)
            choice.num_characters += len(token)
        tops = [self._most_probable(entry) if entry else None for _, entry in known]
        return {
            "tokens": tokens,
            "token_logprobs": [finite(one.logprob) if one else None for _, one in known],
            "top_logprobs": tops if self._request.logprobs else None,
            "text_offset": offsets,
        }

    def _most_probable(self, entry: SampledLogprob) -> dict[str, float]:
        """Return the most probable tokens by text, and the sampled one.

        Of two with equal text it is the more probable one.
        """
        ranked = [(entry.token_id, entry.logprob), *reversed(entry.top)]
        return {
            token_logprob(self._model, token_id, logprob)["token"]: finite(logprob)
            for token_id, logprob in ranked
        }


def _piece(
    index: int,
    text: str,
    logprobs: CompletionLogprobs | None,
    reason: Literal["stop", "length"] | None,
) -> CompletionChoice:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
