"""Continuous batching: many requests, one llama_decode per step.

In: requests, from any thread. Out: outputs per step, handed to a callback. The engine's life is
`step()`: drop what was cancelled, admit what waits, decode one batch over all active sequences,
sample, emit. One thread steps. Knows nothing of HTTP, chat templates or asyncio.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from potstill.errors import BackendError, BackendUnavailableError, ContextLengthError
from serve.engine.context import Chunk, DecodeContext
from serve.engine.model import GgufModel
from serve.engine.request import EngineLimits, Output, Request
from serve.engine.sampler import SampledLogprob, Sampler, sampled_logprob
from serve.engine.slots import Slot, Slots
from serve.engine.stats import EngineStats
from serve.engine.text import TextStream
from serve.errors import InvalidRequestError, QueueFullError

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Sequence:
    """A request at work."""

    request: Request
    slot: Slot
    token_ids: list[int]
    """Prompt and completion so far; the slot holds a beginning of it."""
    max_new_tokens: int
    sampler: Sampler
    text: TextStream
    num_cached_tokens: int
    num_new_tokens: int = 0

    @property
    def num_pending(self) -> int:
        return len(self.token_ids) - len(self.slot.token_ids)


Deliver = Callable[[list[tuple[Request, Output]]], None]


class Engine:
    """Batches the requests to one model.

    Args:
        deliver: Called at the end of a step, in the stepping thread, with what the step produced.
    """

    def __init__(
        self, model: GgufModel, limits: EngineLimits, *, threads: int, deliver: Deliver
    ) -> None:
        self.model = model
        self.limits = limits
        self.num_decoded_tokens = 0
        self._deliver = deliver
        self._context = DecodeContext(
            model,
            num_sequences=limits.max_parallel,
            context_tokens=limits.context_tokens,
            max_batch_tokens=limits.max_batch_tokens,
            threads=threads,
        )
        self._slots = Slots(self._context, limits.max_parallel, reuse=model.can_forget_a_tail)
        self._active: dict[Request, _Sequence] = {}
        self._outputs: list[tuple[Request, Output]] = []
        self._lock = threading.Condition()
        self._waiting: deque[Request] = deque()
        self._cancelled: set[Request] = set()
        self._closing = False

    # From any thread

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests, all of them or none.

        Raises:
            ContextLengthError: Prompt and completion do not fit.
            InvalidRequestError: A parameter is out of the model's range.
            QueueFullError: Too many requests wait.
            BackendUnavailableError: The engine is closing.
        """
        for request in requests:
            self._check(request)
        room = self.limits.max_parallel + self.limits.max_queue
        if len(requests) > room:
            raise InvalidRequestError("too many choices", where="n", expected=f"at most {room}")
        with self._lock:
            if self._closing:
                raise BackendUnavailableError("the model is shutting down")
            if len(self._waiting) + len(self._active) + len(requests) > room:
                raise QueueFullError(
                    "too many requests are waiting for this model", hint="try again in a moment"
                )
            self._waiting.extend(requests)
            self._lock.notify()

    def cancel(self, requests: Sequence[Request]) -> None:
        """Drop requests before the next step; nothing more is delivered for them."""
        with self._lock:
            self._cancelled.update(requests)
            self._lock.notify()

    def close(self) -> None:
        """Refuse new requests, and end `run`; what is unfinished then fails."""
        with self._lock:
            self._closing = True
            self._lock.notify()

    def stats(self) -> EngineStats:
        """Return how busy the engine is, and what it has done since it was made."""
        return EngineStats(
            num_waiting=len(self._waiting),
            num_active=len(self._active),
            num_sequences=self.limits.max_parallel,
            num_steps=0,
            num_decoded_tokens=self.num_decoded_tokens,
            num_prompt_tokens=0,
            num_cached_tokens=0,
            num_generated_tokens=0,
            num_scheduled_sequences=0,
            num_drafted_tokens=0,
            num_accepted_tokens=0,
            decode_seconds=0.0,
            other_seconds=0.0,
        )

    @property
    def is_open(self) -> bool:
        """Whether requests are taken."""
        return not self._closing

    # From the stepping thread

    def run(self) -> None:
        """Step while there is work, sleep while there is none, until closed; then free memory."""
        try:
            while not self._closing:
                with self._lock:
                    self._lock.wait_for(lambda: self._closing or self._has_work())
                self.step()
        except Exception:
            logger.exception("the engine of %s has failed", self.model.path.name)
        finally:
            self._end()

    def step(self) -> None:
        """Advance every active request by one batch."""
        self._drop_cancelled()
        self._admit()
        scheduled = self._schedule()
        if scheduled:
            self._decode(scheduled)
        self._emit()

    def _has_work(self) -> bool:
        return bool(self._waiting or self._active or self._cancelled)

    def _drop_cancelled(self) -> None:
        with self._lock:
            cancelled, self._cancelled = self._cancelled, set()
            if cancelled:
                self._waiting = deque(r for r in self._waiting if r not in cancelled)
        for request in cancelled & self._active.keys():
            self._free(self._active[request])

    def _admit(self) -> None:
        while len(self._active) < self.limits.max_parallel:
            with self._lock:
                if not self._waiting:
                    return
                request = self._waiting.popleft()
            prompt = list(request.prompt_token_ids)
            max_new_tokens = request.max_new_tokens
            if max_new_tokens is None:
                max_new_tokens = self.limits.context_tokens - len(prompt)
            slot = self._slots.take(prompt)
            sequence = _Sequence(
                request=request,
                slot=slot,
                token_ids=prompt,
                max_new_tokens=max_new_tokens,
                sampler=Sampler(request.sampler, prompt, self.model.vocab_size, max_new_tokens),
                text=TextStream(request.stop),
                num_cached_tokens=len(slot.token_ids),
            )
            self._active[request] = sequence
            if max_new_tokens == 0:
                self._finish(sequence, "length")

    def _schedule(self) -> list[tuple[_Sequence, Chunk]]:
        """Give one token to every decoding sequence, and what is left of the batch to prompts."""
        budget = self.limits.max_batch_tokens
        scheduled = []
        for sequence in sorted(self._active.values(), key=lambda s: s.num_pending > 1):
            start = len(sequence.slot.token_ids)
            token_ids = sequence.token_ids[start : start + budget]
            if not token_ids:
                break
            budget -= len(token_ids)
            wants_logits = len(token_ids) == sequence.num_pending
            chunk = Chunk(sequence.slot.sequence_id, start, token_ids, wants_logits)
            scheduled.append((sequence, chunk))
        return scheduled

    def _decode(self, scheduled: list[tuple[_Sequence, Chunk]]) -> None:
        """Decode together; if llama.cpp refuses, one by one, so that only the culprit fails."""
        try:
            indices = self._context.decode([chunk for _, chunk in scheduled])
        except BackendError as error:
            for sequence, chunk in scheduled:
                self._context.forget(chunk.sequence_id, chunk.start)
                if len(scheduled) == 1:
                    self._fail(sequence, error)
            if len(scheduled) > 1:
                for one in scheduled:
                    self._decode([one])
            return
        for (sequence, chunk), index in zip(scheduled, indices, strict=True):
            sequence.slot.token_ids += chunk.token_ids
            self.num_decoded_tokens += len(chunk.token_ids)
            if chunk.wants_logits:
                self._advance(sequence, index)

    def _advance(self, sequence: _Sequence, index: int) -> None:
        """Sample a sequence's next token, and say what it adds to the completion."""
        token_id = sequence.sampler.sample(self._context, index)
        sequence.num_new_tokens += 1
        num_top = sequence.request.num_top_logprobs
        logprob = None
        if num_top is not None:
            logprob = sampled_logprob(self._context.logits(index), token_id, num_top)
        if self.model.ends_generation(token_id):
            self._finish(sequence, "stop", end=logprob)
            return
        sequence.token_ids.append(token_id)
        released = sequence.text.push(self.model.piece(token_id), logprob)
        if released.stopped:
            self._finish(sequence, "stop", released.text, released.logprobs)
        elif sequence.num_new_tokens == sequence.max_new_tokens:
            self._finish(sequence, "length", released.text, released.logprobs)
        elif released.text or released.logprobs:
            self._outputs.append((sequence.request, Output(released.text, released.logprobs)))

    def _finish(
        self,
        sequence: _Sequence,
        reason: Literal["stop", "length"],
        text: str = "",
        logprobs: tuple[SampledLogprob, ...] = (),
        end: SampledLogprob | None = None,
    ) -> None:
        rest = sequence.text.finish()
        output = Output(
            text=text + rest.text,
            logprobs=logprobs + rest.logprobs + ((end,) if end else ()),
            num_new_tokens=sequence.num_new_tokens,
            num_cached_tokens=sequence.num_cached_tokens,
            finish_reason=reason,
        )
        self._outputs.append((sequence.request, output))
        self._free(sequence)

    def _fail(self, sequence: _Sequence, error: BackendError) -> None:
        self._outputs.append((sequence.request, Output(error=error)))
        self._free(sequence)

    def _free(self, sequence: _Sequence) -> None:
        del self._active[sequence.request]
        sequence.sampler.close()
        self._slots.release(sequence.slot)

    def _emit(self) -> None:
        if self._outputs:
            outputs, self._outputs = self._outputs, []
            self._deliver(outputs)

    def _end(self) -> None:
        self.close()
        error = BackendUnavailableError("the model was shut down before the answer was complete")
        for sequence in list(self._active.values()):
            self._fail(sequence, error)
        self._outputs += [(request, Output(error=error)) for request in self._waiting]
        self._waiting.clear()
        self._emit()
        self._context.close()

    def _check(self, request: Request) -> None:
        num_prompt, limit = len(request.prompt_token_ids), self.limits.context_tokens
        if num_prompt == 0:
            raise InvalidRequestError("the prompt is empty")
        num_new = 1 if request.max_new_tokens is None else request.max_new_tokens
        if num_prompt + num_new > limit:
            raise ContextLengthError(
                f"the model's context is {limit} tokens",
                found=f"{num_prompt} tokens of prompt and {num_new} of completion",
                hint="shorten the prompt or ask for fewer tokens",
            )
        for token_id in request.sampler.logit_bias:
            if not 0 <= token_id < self.model.vocab_size:
                raise InvalidRequestError(
                    "logit_bias names a token the model does not have",
                    where="logit_bias",
                    expected=f"0 to {self.model.vocab_size - 1}",
                    found=token_id,
                )
