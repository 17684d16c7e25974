"""Continuous batching: many requests, one llama_decode per step.

In: requests, from any thread. Out: outputs per step, passed to a callback. `step()` is the engine's
cycle: drop cancelled requests, admit waiting ones, decode one batch over all active sequences,
sample, emit. Only one thread steps.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np
import numpy.typing as npt

from potstill.errors import BackendError, BackendUnavailableError, PotstillError
from serve.engine.checks import check_request, check_texts
from serve.engine.context import Chunk, DecodeContext
from serve.engine.embedding import Embedder, Vectors
from serve.engine.grammar_client import Grammar, Verdict
from serve.engine.grammar_owners import GrammarProcesses
from serve.engine.model import GgufModel
from serve.engine.request import EngineLimits, Output, Request
from serve.engine.sampler import Candidates, Sampler
from serve.engine.scheduler import Budget, Scheduler, Share
from serve.engine.sequence import ActiveSequence, Proposal
from serve.engine.slots import Slots, common_length
from serve.engine.speculation import MAX_VERIFIED_TOKENS, Drafter
from serve.engine.stats import EngineStats, Totals
from serve.engine.text import TextStream
from serve.engine.waiting import Waiting

logger = logging.getLogger(__name__)

NUM_PROMPT_OUTPUTS = 64
"""Rows of logits per batch for prompts' log-probabilities; 64 of 49,152 tokens are 13 MB."""

GRAMMAR_SECONDS, IDLE_SECONDS = 0.01, 0.05
"""How long a step waits for grammars while other sequences could continue, and with nothing else to
do; most need 1 ms."""

Deliver = Callable[[list[tuple[Request, Output]]], None]


class Engine:
    """Batches the requests to one model.

    Args:
        deliver: Called at the end of a step, in the stepping thread, with the step's outputs.
        draft: A smaller model of the same tokenizer, for speculative decoding.
    """

    def __init__(
        self,
        model: GgufModel,
        limits: EngineLimits,
        *,
        threads: int,
        deliver: Deliver,
        draft: GgufModel | None = None,
    ) -> None:
        self.model, self.limits = model, limits
        self._deliver = deliver
        self._context = DecodeContext(
            model,
            num_sequences=limits.max_parallel,
            context_tokens=limits.context_tokens,
            max_batch_tokens=limits.max_batch_tokens,
            threads=threads,
            max_outputs=limits.max_parallel + max(NUM_PROMPT_OUTPUTS, MAX_VERIFIED_TOKENS),
            reproducible=limits.reproducible,
            kv_cache=limits.kv_cache,
        )
        self._slots = Slots(self._context, limits.max_parallel, limits.context_tokens)
        self._drafter = Drafter(draft, model, limits, threads=threads) if draft else None
        self._grammars = GrammarProcesses(model, has_owners=limits.has_owners)
        self._embedder = Embedder(model, limits, threads=threads)
        self._candidates = Candidates(model.vocab_size)
        self._end_tokens = frozenset(model.end_tokens)
        self._active: dict[Request, ActiveSequence] = {}
        self._outputs: list[tuple[Request, Output]] = []
        self._totals = Totals()
        self._scheduler = Scheduler(Budget(limits.max_batch_tokens, self._context.max_outputs))
        self._lock = threading.Condition()
        self._waiting = Waiting(limits)
        self._cancelled: set[Request] = set()
        self._closing = self.has_failed = False
        """Whether `run` has ended by an error."""

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
            check_request(request, self.model, self.limits)
        with self._lock:
            self._refuse_if_closing()
            self._waiting.add(requests)
            self._lock.notify()

    def embed(self, texts: Sequence[Sequence[int]], owner: str = "") -> Future[Vectors]:
        """Queue texts to embed; owners take turns.

        Raises:
            BackendError: The model computes no embeddings, or the engine is closing.
            ContextLengthError: A text is longer than the context.
            InvalidRequestError: A text is empty, or has a token the model does not have.
            QueueFullError: Too many texts wait.
        """
        check_texts(texts, self.model, self.limits)
        with self._lock:
            self._refuse_if_closing()
            future = self._embedder.submit(texts, owner)
            self._lock.notify()
        return future

    def cancel(self, requests: Sequence[Request]) -> None:
        """Drop requests before the next step; nothing more is delivered for them."""
        with self._lock:
            self._cancelled.update(requests)
            self._lock.notify()

    def close(self) -> None:
        """Refuse new requests, and end `run`; unfinished requests fail."""
        with self._lock:
            self._closing = True
            self._lock.notify()

    def stats(self) -> EngineStats:
        """Return the engine's load, and totals since it was created."""
        parts = (self._context, self._embedder, *([self._drafter] if self._drafter else ()))
        return self._totals.stats(
            num_waiting=len(self._waiting),
            num_active=len(self._active),
            num_sequences=self.limits.max_parallel,
            decode_seconds=sum(part.decode_seconds for part in parts),
        )

    @property
    def is_open(self) -> bool:
        """Whether requests are accepted."""
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
            self.has_failed = True
            logger.exception("the engine of %s has failed", self.model.path.name)
        finally:
            self._end()

    def step(self) -> None:
        """Advance every active request by one batch."""
        begin = time.perf_counter()
        self._drop_cancelled()
        self._admit()
        shares = self._schedule()
        if shares:
            self._decode(shares)
            self._totals.num_steps += 1
            self._totals.num_scheduled_sequences += len(shares)
        self._ask_grammars(GRAMMAR_SECONDS if shares else IDLE_SECONDS)
        if self._embedder.has_work:
            self._embedder.step()
        self._emit()
        self._totals.step_seconds += time.perf_counter() - begin

    def _has_work(self) -> bool:
        return bool(self._waiting or self._active or self._cancelled or self._embedder.has_work)

    def _drop_cancelled(self) -> None:
        with self._lock:
            cancelled, self._cancelled = self._cancelled, set()
            self._waiting.drop(cancelled)
        for request in cancelled & self._active.keys():
            self._free(self._active[request])

    def _admit(self) -> None:
        while True:
            with self._lock:
                request = self._waiting.next(self._active)
            if request is None:
                return
            try:
                sequence = self._sequence(request)
            except Exception as error:  # whatever it is, only this request fails
                logger.error("a request cannot be started: %s", type(error).__name__)
                cannot_start = BackendUnavailableError("the request cannot be started now")
                self._outputs.append((request, Output(error=cannot_start)))
                self._leave(request)
                continue
            self._active[request] = sequence
            self._totals.num_prompt_tokens += len(sequence.token_ids)
            if sequence.max_new_tokens == 0 and sequence.request.num_prompt_logprobs is None:
                sequence.finish("length")

    def _sequence(self, request: Request) -> ActiveSequence:
        prompt, limit = list(request.prompt_token_ids), request.max_new_tokens
        return ActiveSequence(
            request=request,
            token_ids=prompt,
            max_new_tokens=self.limits.context_tokens - len(prompt) if limit is None else limit,
            sampler=Sampler(
                request.sampler,
                self.model,
                self._candidates,
                prompt,
                context_tokens=self.limits.context_tokens,
                ignore_eos=request.ignore_eos,
                num_drawn=request.num_top_logprobs if request.after_sampling else None,
                dry=request.dry,
            ),
            text=TextStream(request.stop),
            grammar=self._grammars.of(request),
        )

    def _schedule(self) -> list[Share]:
        for sequence in self._active.values():
            if sequence.slot is None and not sequence.is_finished:
                self._start(sequence)
        self._slots.close_gaps()
        sequences = [s for s in self._active.values() if s.slot and not s.is_finished]
        decoding = self._scheduler.decoding(sequences)
        if self._drafter:
            self._totals.num_drafted_tokens += self._drafter.draft(decoding)
        return self._scheduler.share(sequences, decoding)

    def _start(self, sequence: ActiveSequence) -> None:
        """Take a slot, or wait while another prompt with the same prefix is being read."""
        if sequence.request.num_prompt_logprobs is not None:
            sequence.slot = self._slots.take_empty(sequence.request.owner)
            sequence.note_progress()
            return
        prompt = sequence.token_ids
        owner, num_public = sequence.request.owner, sequence.request.num_public_tokens
        if self.model.can_forget_a_tail:
            num_computed = self._slots.num_computed(prompt, owner, num_public)
            worthwhile = num_computed + self._slots.min_copied_tokens
            for other in self._active.values():
                usable = prompt[:-1] if other.request.owner == owner else prompt[:-1][:num_public]
                shared = common_length(other.token_ids, usable) if other.slot else 0
                if shared >= worthwhile and other.num_computed < shared:
                    return
        sequence.slot = self._slots.take(prompt, owner, num_public)
        sequence.borders = self._slots.borders(sequence.slot, prompt, self._end_tokens)
        sequence.num_cached_tokens = sequence.num_computed
        self._totals.num_cached_tokens += sequence.num_cached_tokens
        sequence.note_progress()

    def _decode(self, shares: Sequence[Share]) -> None:
        """Decode all shares; if llama.cpp refuses, one by one, so that only a bad one fails."""
        chunks = [share.chunk for share in shares]
        try:
            rows = self._context.decode(chunks)
        except BackendError as error:
            for share, chunk in zip(shares, chunks, strict=True):
                self._context.forget(chunk.sequence_id, chunk.start)
                if len(shares) == 1:
                    share.sequence.error = error
                    if share.sequence.slot:
                        self._slots.cut(share.sequence.slot, 0)
            for share in shares if len(shares) > 1 else ():
                self._decode([share])
            return
        for share, chunk, logits_KV in zip(shares, chunks, rows, strict=True):
            self._totals.num_decoded_tokens += len(chunk.token_ids)
            self._read(share.sequence, chunk, logits_KV)

    def _read(
        self, sequence: ActiveSequence, chunk: Chunk, logits_KV: npt.NDArray[np.float32]
    ) -> None:
        """Record the decoded tokens of a sequence; sample if none are pending."""
        if sequence.slot:
            sequence.slot.token_ids += chunk.token_ids
            self._slots.save(sequence.slot, sequence.borders)
        if sequence.is_prefilling:
            sequence.note_progress()
            if sequence.request.num_prompt_logprobs is not None:
                sequence.read_prompt(chunk.start, logits_KV)
                logits_KV = logits_KV[-1:]
        if sequence.num_pending <= 0:
            self._advance(sequence, logits_KV)

    def _advance(self, sequence: ActiveSequence, logits_KV: npt.NDArray[np.float32]) -> None:
        """Sample the next tokens, as long as they equal the draft."""
        if sequence.num_new_tokens == sequence.max_new_tokens:
            sequence.finish("length")
            return
        drafted, sequence.draft = sequence.draft, []
        try:
            for number, logits_V in enumerate(logits_KV):
                token_id = sequence.sampler.choose(logits_V)
                if sequence.grammar:
                    sequence.proposal = Proposal(token_id, logits_V.copy())
                    self._grammars.propose(sequence.grammar, token_id)
                    return
                self._take(sequence, token_id, logits_V)
                if sequence.is_finished:
                    return
                if sequence.grammar or token_id not in drafted[number : number + 1]:
                    break
                self._totals.num_accepted_tokens += 1
        except PotstillError as error:
            sequence.error = error
            return
        if sequence.slot and sequence.num_pending <= 0:
            self._slots.cut(sequence.slot, len(sequence.token_ids) - 1)

    def _take(
        self, sequence: ActiveSequence, token_id: int, logits_V: npt.NDArray[np.float32] | None
    ) -> None:
        self._totals.num_generated_tokens += 1
        piece = None if token_id in self._end_tokens else self.model.piece(token_id)
        if source := sequence.take(token_id, piece, logits_V):
            sequence.grammar = self._grammars.open(source, sequence.request.owner)

    def _ask_grammars(self, timeout_seconds: float) -> None:
        """Collect the grammars' verdicts on proposed tokens; late ones wait for a later step."""
        deadline = time.monotonic() + timeout_seconds
        while self._grammars.is_busy:
            sequences = {s.grammar: s for s in self._active.values() if s.grammar}
            is_waiting = any(s.proposal for s in sequences.values())
            remaining_seconds = max(0.0, deadline - time.monotonic()) if is_waiting else 0.0
            if not (verdicts := self._grammars.collect(remaining_seconds)):
                return
            for grammar, verdict in verdicts:
                if grammar in sequences:
                    self._judge(sequences[grammar], grammar, verdict)

    def _judge(self, sequence: ActiveSequence, grammar: Grammar, verdict: Verdict) -> None:
        proposal = sequence.proposal
        if proposal and verdict.error is None and verdict.allowed_V is None:
            sequence.proposal = None
            self._take(sequence, proposal.token_id, proposal.logits_V)
            for token_id in verdict.forced:
                if sequence.may_skip:
                    self._grammars.skip(grammar, token_id)
                    self._take(sequence, token_id, None)
        elif (other := sequence.propose_another(verdict, self.model.end_tokens)) is not None:
            self._grammars.propose(grammar, other)

    def _free(self, sequence: ActiveSequence) -> None:
        del self._active[sequence.request]
        self._leave(sequence.request)
        sequence.sampler.close()
        if sequence.slot:
            self._slots.release(sequence.slot)
        if sequence.grammar:
            self._grammars.release(sequence.grammar)
        if self._drafter:
            self._drafter.forget(sequence)

    def _leave(self, request: Request) -> None:
        with self._lock:
            self._waiting.end(request)

    def _emit(self) -> None:
        for sequence in list(self._active.values()):
            if output := sequence.pop_output():
                self._outputs.append((sequence.request, output))
            if sequence.is_finished:
                self._free(sequence)
        if self._outputs:
            outputs, self._outputs = self._outputs, []
            self._deliver(outputs)

    def _end(self) -> None:
        self.close()
        error = BackendUnavailableError("the model was shut down before the answer was complete")
        with self._lock:
            unfinished = [*self._active, *self._waiting.clear()]
        self._deliver([*self._outputs, *((one, Output(error=error)) for one in unfinished)])
        for sequence in self._active.values():
            sequence.sampler.close()
        self._embedder.close(error)
        self._grammars.close()
        if self._drafter:
            self._drafter.close()
        self._context.close()

    def _refuse_if_closing(self) -> None:
        if self._closing:
            raise BackendUnavailableError("the model is shutting down")
