"""A GGUF model in this process.

Rendering, tokenizing and grammars run in the backend's own threads and decoding in the engine's, so
that the event loop never waits for them.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from pydantic import ValidationError

from potstill.errors import ConfigError, ContextLengthError
from serve.backends.local.chat_reply import LocalChatReply
from serve.backends.local.generation import TimedGeneration, text_of
from serve.backends.local.llama_reply import LlamaReplies, LlamaReply
from serve.backends.local.preparation import Preparation
from serve.backends.local.text_reply import LocalTextReply
from serve.backends.local.turns import SharedThreads
from serve.backends.protocol import Caller
from serve.chat.prompt import ChatPrompt
from serve.chat.task import ServedTask
from serve.engine.grammar import NUM_CHECKERS, check_grammar
from serve.engine.model import GgufModel
from serve.engine.request import Request
from serve.engine.sampler import Dry
from serve.engine.stats import EngineStats
from serve.engine.thread import EngineThread
from serve.engine.trigger import Trigger, usable
from serve.errors import (
    InvalidRequestError,
    PromptTooLongError,
    QueueFullError,
    UnsupportedParameterError,
)
from serve.metrics import Metrics
from serve.wire.chat import ChatRequest
from serve.wire.completions import CompletionRequest
from serve.wire.embeddings import Embedding, EmbeddingList, EmbeddingRequest
from serve.wire.llama import LlamaCompletionRequest
from serve.wire.models import ModelCard, model_card
from serve.wire.shared import SAMPLER_FIELDS, SamplingFields

T = TypeVar("T")
Sampling = TypeVar("Sampling", bound=SamplingFields)

PREPARING_THREADS = 4
MAX_LOGPROBS = 1 << 18
"""In one answer, which holds them until it is complete: each takes half a kilobyte."""

_slow_threads = SharedThreads(NUM_CHECKERS, "slow")
"""For what may take seconds, of all models."""


@dataclass(frozen=True)
class LocalModel:
    """A loaded model with its engine; several names may share it."""

    model: GgufModel
    engine: EngineThread
    prompt: ChatPrompt
    fingerprint: str
    """Changes when an equal request with an equal seed may get another answer."""
    created: int
    """When its file was made, in seconds since 1970."""


class LocalBackend:
    """One name of a model in this process.

    Args:
        defaults: Sampling parameters for requests that leave them out.
        task: Instructions, tools and schema for chats that leave them out.
        public_prompts: System prompts whose memory all keys share.

    Raises:
        ConfigError: A default is unknown or out of range.
    """

    def __init__(
        self,
        name: str,
        local: LocalModel,
        metrics: Metrics,
        *,
        defaults: Mapping[str, float] | None = None,
        task: ServedTask | None = None,
        public_prompts: Sequence[str] = (),
    ) -> None:
        self.name = name
        self._task = task
        self.model = local.model
        self.local = local
        self._engine, self._limits = local.engine, local.engine.engine.limits
        self._preparation = Preparation(
            local.model,
            local.prompt,
            task,
            context_tokens=self._limits.context_tokens,
            public_prompts=public_prompts,
        )
        self._metrics = metrics.watch(name, local.engine.stats)
        self._defaults = _checked_defaults(defaults or {})
        self._threads = SharedThreads(PREPARING_THREADS, f"prepare {name}")

    @property
    def card(self) -> ModelCard:
        """The model as OpenAI lists it."""
        card: ModelCard = {
            **model_card(self.name, self.local.created),
            "file": self.model.path.name,
            "context_tokens": self.context_tokens,
            "reproducible": self._limits.reproducible and self.model.is_reproducible,
            "system_fingerprint": self.local.fingerprint,
        }
        return card if self._task is None else {**card, "task": self._task.card}

    @property
    def context_tokens(self) -> int:
        """Prompt and completion of one request together, in tokens."""
        return self._limits.context_tokens

    @property
    def is_ready(self) -> bool:
        """Whether requests are accepted."""
        return self._engine.is_ready

    @property
    def has_failed(self) -> bool:
        """Whether the model will not work again in this process.

        A file that is written to while it is served gives wrong answers, and one that becomes
        shorter ends the process.
        """
        return self._engine.has_failed or self.model.has_changed

    @property
    def template(self) -> str:
        """The source of the model's chat template."""
        return self.local.prompt.template

    async def start(self) -> None:
        """Start the engine for the running event loop."""
        if not self._engine.is_ready:
            self._engine.start()

    async def stop(self) -> None:
        """Stop; unfinished answers fail."""
        await self._engine.stop()
        self.local.prompt.close()
        self._threads.close()

    def stats(self) -> EngineStats:
        """Return the engine's load."""
        return self._engine.stats()

    async def chat(self, request: ChatRequest, caller: Caller) -> LocalChatReply:
        """Accept a chat request.

        Raises:
            InvalidRequestError: A value cannot be used.
            ContextLengthError: Prompt and completion do not fit.
            BackendUnavailableError: The engine is not running, or its queue is full.
        """
        given = self._with_defaults(request)
        request = await self.beside(lambda: self._preparation.completed(given), caller)
        prompt, requests = await self.beside(lambda: self._preparation.chat(request), caller)
        requests = await self._ready(requests, caller)
        is_bound = any(one.grammar is not None for one in requests)
        opened = not is_bound and self.local.prompt.opens_thinking(prompt)
        verbose = None
        if request.verbose:
            text = await self.beside(lambda: self._preparation.rendered(request), caller)
            verbose = {"prompt": text}
        return LocalChatReply(
            request,
            self._submit(requests, caller, len(prompt), place="messages"),
            self.model,
            (self.local.prompt.tool_format, self.local.prompt.think_format),
            opened=opened,
            fingerprint=self.local.fingerprint,
            verbose=verbose,
        )

    async def complete_text(self, request: CompletionRequest, caller: Caller) -> LocalTextReply:
        """Accept a request for text without a template; raises as `chat` does."""
        request.check()
        request = self._with_defaults(request)
        prompts, requests = await self.beside(lambda: self._preparation.text(request), caller)
        requests = await self._ready(requests, caller)
        return LocalTextReply(
            request,
            self._submit(requests, caller, sum(map(len, prompts))),
            self.model,
            prompts,
            fingerprint=self.local.fingerprint,
        )

    async def complete_llama(self, request: LlamaCompletionRequest, caller: Caller) -> LlamaReplies:
        """Accept a request in the spelling of llama.cpp's server; raises as `chat` does."""
        request.check()
        request = self._with_defaults(request)
        requests = await self.beside(lambda: self._preparation.llama(request), caller)
        requests = await self._ready(requests, caller)
        replies: list[LlamaReply] = []
        try:
            for index, one in enumerate(requests):
                generation = self._submit([one], caller, len(one.prompt_token_ids))
                replies.append(LlamaReply(request, one, generation, self.model, index))
        except BaseException:
            LlamaReplies(replies).cancel()
            raise
        return LlamaReplies(replies)

    async def embed(self, request: EmbeddingRequest, caller: Caller) -> EmbeddingList:
        """Compute the embeddings of texts.

        Raises:
            UnsupportedParameterError: The model computes none.
            InvalidRequestError: A text is empty, or `dimensions` is more than the model has.
            ContextLengthError: A text is longer than the context.
            BackendUnavailableError: The engine is not running.
        """
        if not self.model.can_embed:
            raise UnsupportedParameterError("this model computes no embeddings", where="model")
        texts = await self.beside(
            lambda: [self._preparation.prompt_ids(text, "input") for text in request.texts],
            caller,
        )
        num_tokens = sum(map(len, texts))
        with caller.reserve(num_tokens).given_back_on_refusal():
            try:
                vectors = await self._engine.embed(texts, caller.owner)
            except ContextLengthError as error:
                raise self._too_long(error, num_tokens, "input") from error
        data: list[Embedding] = [
            {"object": "embedding", "index": index, "embedding": _shaped(vector, request)}
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
        return {"object": "list", "data": data, "model": self.name, "usage": usage}  # type: ignore[typeddict-item]

    async def count_prompt_tokens(self, request: ChatRequest, caller: Caller) -> int:
        """Return the number of tokens of a chat's prompt; raises as `chat` does."""
        token_ids = await self.beside(
            lambda: self._preparation.chat_ids(self._preparation.completed(request)), caller
        )
        return len(token_ids)

    async def rendered(self, request: ChatRequest, caller: Caller) -> str:
        """Return a chat's prompt as text; raises as `chat` does."""
        return await self.beside(
            lambda: self._preparation.rendered(self._preparation.completed(request)), caller
        )

    async def tokenize(
        self, text: str, caller: Caller, *, add_special: bool, parse_special: bool
    ) -> list[int]:
        """Return a text's token ids."""
        token_ids = await self.beside(
            lambda: self._preparation.tokenized(text, "content", parse_special=parse_special),
            caller,
        )
        return [*self.model.start_tokens, *token_ids] if add_special else token_ids

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens; control tokens have none.

        Raises:
            InvalidRequestError: The model does not have a token.
        """
        self._preparation.check_ids(token_ids, "tokens")
        return text_of(self.model, token_ids)

    async def beside(self, work: Callable[[], T], caller: Caller) -> T:
        """Return what `work` returns, in a thread of which no key takes all."""
        return await self._threads.run(work, self._owner(caller))

    def _owner(self, caller: Caller) -> str | None:
        return caller.owner if self._limits.has_owners else None  # one owner may take all

    async def _ready(self, requests: Sequence[Request], caller: Caller) -> list[Request]:
        """Do what may take seconds for the requests to one prompt: check a grammar, make DRY.

        It has threads of its own.
        """
        self._check_logprobs(requests)
        first = requests[0]
        if not (first.grammar or first.trigger or first.sampler.dry_multiplier):
            return [*requests]

        def work() -> tuple[Trigger | None, Dry | None]:
            if first.grammar is not None:
                check_grammar(first.grammar)
            trigger = first.trigger and usable(first.trigger)
            return trigger, Dry.of(first.sampler, self.model, self.context_tokens)

        trigger, dry = await _slow_threads.run(work, self._owner(caller))
        return [replace(one, trigger=trigger, dry=dry) for one in requests]

    def _check_logprobs(self, requests: Sequence[Request]) -> None:
        """Refuse more log-probabilities than an answer should hold."""
        most = 0
        for one in requests:
            if one.num_top_logprobs is not None:
                most += (1 + one.num_top_logprobs) * self._most_new_tokens(one)
            if one.num_prompt_logprobs is not None:
                most += (1 + one.num_prompt_logprobs) * len(one.prompt_token_ids)
        if most > MAX_LOGPROBS:
            raise InvalidRequestError(
                "the answer may have too many log-probabilities",
                where="top_logprobs",
                expected=f"at most {MAX_LOGPROBS} of tokens and alternatives, all choices together",
                found=most,
                hint="lower max_tokens, n or top_logprobs",
            )

    def _with_defaults(self, request: Sampling) -> Sampling:
        missing = {k: v for k, v in self._defaults.items() if getattr(request, k) is None}
        return request.model_copy(update=missing) if missing else request

    def _submit(
        self,
        requests: Sequence[Request],
        caller: Caller,
        num_prompt_tokens: int,
        place: str = "prompt",
    ) -> TimedGeneration:
        stopwatch = self._metrics.start()
        requests = [replace(one, owner=caller.owner) for one in requests]
        most = num_prompt_tokens + sum(map(self._most_new_tokens, requests))
        reservation = caller.reserve(most)
        with reservation.given_back_on_error():
            try:
                generation = self._engine.submit(requests)
            except QueueFullError as error:
                error.retry_after_seconds = self._seconds_until_room()
                raise
            except ContextLengthError as error:
                raise self._too_long(error, num_prompt_tokens, place) from error
        return TimedGeneration(generation, stopwatch, reservation, num_prompt_tokens)

    def _most_new_tokens(self, request: Request) -> int:
        room = max(0, self.context_tokens - len(request.prompt_token_ids))
        return room if request.max_new_tokens is None else min(room, request.max_new_tokens)

    def _too_long(
        self, error: ContextLengthError, num_prompt_tokens: int, place: str
    ) -> PromptTooLongError:
        too_long = PromptTooLongError(error.what, where=place, found=error.found, hint=error.hint)
        too_long.num_prompt_tokens = num_prompt_tokens
        too_long.context_tokens = self.context_tokens
        return too_long

    def _seconds_until_room(self) -> int:
        """Predict when the queue will have room: its length over the rate of answers."""
        stats = self.stats()
        rounds = (stats.num_waiting + 1) / stats.num_sequences
        return max(1, math.ceil(rounds * self._metrics.recent_answer_seconds))


def _checked_defaults(defaults: Mapping[str, float]) -> dict[str, float]:
    known = {*SAMPLER_FIELDS, "seed"}
    unknown = defaults.keys() - known
    if unknown:
        raise ConfigError(
            "unknown sampling parameters",
            where="serve.sampling",
            expected=" | ".join(sorted(known)),
            found=", ".join(sorted(unknown)),
        )
    try:
        checked = SamplingFields.model_validate(dict(defaults))
    except ValidationError as error:
        raise ConfigError(
            "a sampling parameter is out of range", where="serve.sampling", found=error
        ) from error
    return {name: getattr(checked, name) for name in defaults}


def _shaped(vector: list[float], request: EmbeddingRequest) -> list[float] | str:
    if request.dimensions is not None:
        if request.dimensions > len(vector):
            raise InvalidRequestError(
                "the model's embeddings have fewer dimensions",
                where="dimensions",
                expected=f"at most {len(vector)}",
                found=request.dimensions,
            )
        vector = vector[: request.dimensions]
        norm = math.sqrt(sum(value * value for value in vector)) or 1.0
        vector = [value / norm for value in vector]
    if request.encoding_format == "base64":
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    return vector
