"""An experiment: one model name behind which several models answer.

Each user's requests go to one variant. Answers get ids of the experiment's own; their outcomes are
stored, counted, checked by guardrails and offered to the shadow.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace

from sqlalchemy import Connection, select

from potstill.errors import ContextLengthError
from serve.backends.protocol import (
    ANSWER_HEADER,
    VARIANT_HEADER,
    Caller,
    ChatBackend,
    ChatReply,
)
from serve.errors import InvalidRequestError, RetryLaterError
from serve.experiment.assignment import choose, user_of
from serve.experiment.config import ExperimentConfig
from serve.experiment.guardrails import ExperimentGuardrails
from serve.experiment.metrics import ExperimentMetrics
from serve.experiment.shadow import Shadow
from serve.experiment.wire import State
from serve.storage import tables
from serve.storage.queries import began
from serve.storage.records import NOTHING, AnswerRecord, OutcomeName, Place, said_in
from serve.storage.storage import Storage, dialect_insert
from serve.wire.chat import ChatCompletion, ChatCompletionChunk, ChatRequest
from serve.wire.chunks import ChunkAssembler
from serve.wire.models import ModelCard, model_card

logger = logging.getLogger(__name__)

STATE_SECONDS = 5.0
"""How often the stored state is read: another server may have changed it."""
ONLY_FOR_CLIENTS = {"n": 1, "logprobs": None, "top_logprobs": None}
"""What shadows have in place of a request's own."""
CLIENT_ERRORS = (InvalidRequestError, ContextLengthError)
NOBODYS_ERRORS = (*CLIENT_ERRORS, RetryLaterError)
"""Errors that do not count against a variant: a client's, and those of a full queue or a key's
limit, which say nothing about a model."""


@dataclass(frozen=True)
class Asked:
    """A request with all that its stored record needs."""

    answer_id: str
    request: ChatRequest
    """For the variant's model."""
    caller: Caller
    place: Place
    conversation: str
    prompt: str
    started: float
    created: float

    def record(
        self, outcome: OutcomeName, completion: ChatCompletion | None = None
    ) -> AnswerRecord:
        """Return the record to store."""
        return AnswerRecord(
            id=self.answer_id,
            model=self.request.model or "",
            created=self.created,
            seconds=time.perf_counter() - self.started,
            outcome=outcome,
            messages=self.request.messages,
            conversation=self.conversation,
            prompt=self.prompt,
            place=self.place,
            said=NOTHING if completion is None else said_in(completion),
            owner=self.caller.owner,
        )


class Experiment:
    """An experiment over served models.

    Args:
        backends: Backends by variant.
        metrics: Counts the outcomes of answers.
    """

    def __init__(
        self,
        name: str,
        config: ExperimentConfig,
        backends: Mapping[str, ChatBackend],
        storage: Storage,
        metrics: ExperimentMetrics,
    ) -> None:
        self.name, self.config, self.storage = name, config, storage
        self._metrics = metrics
        self.salt = storage.salt if config.salt is None else config.salt
        self.state: State = "running"
        self.began = math.inf
        """When it was first served: people's votes on earlier answers may be on other models."""
        self._unwritten: dict[str, str] | None = None
        """The row of a state that is not committed yet; until then no other state is read."""
        self.guardrails = ExperimentGuardrails(config.guardrails)
        self.shadow: Shadow[Asked] = Shadow(config.shadow, self._answer_in_shadow)
        self._backends = backends
        self._created = int(time.time())
        weights = {variant: one.weight for variant, one in config.variants.items()}
        self._weights = weights
        total = sum(weights.values())
        self.shares = {variant: weight / total for variant, weight in weights.items()}
        self._watching: asyncio.Task[None] | None = None

    @property
    def card(self) -> ModelCard:
        """The experiment as OpenAI lists a model."""
        return model_card(self.name, self._created)

    @property
    def sides(self) -> tuple[str, str]:
        """The compared models: the student's and the teacher's."""
        config = self.config
        return config.model_of(config.student), config.model_of(config.teacher)

    @property
    def is_ready(self) -> bool:
        """Whether any variant accepts requests."""
        return any(backend.is_ready for backend in self._backends.values())

    async def start(self) -> None:
        """Start shadows; the variants' backends are started separately."""
        await self._read_state()
        now = time.time()
        beginning = self.storage.submit(lambda connection: began(connection, self.name, now))
        self.began = await asyncio.wrap_future(beginning)
        self.shadow.start()
        self._watching = asyncio.create_task(self._watch_state())

    async def stop(self) -> None:
        """Stop shadows; answers in progress belong to the variants."""
        if self._watching is not None:
            self._watching.cancel()
        await self.shadow.stop()

    async def chat(self, request: ChatRequest, caller: Caller) -> ExperimentReply:
        """Pass the request to the user's variant; raises as its backend does."""
        asked = self._asked(request, caller)
        try:
            reply = await self._backends[asked.place.variant].chat(asked.request, caller)
        except NOBODYS_ERRORS:
            raise
        except Exception:
            await self.note(asked, "failed")
            raise
        return ExperimentReply(self, asked, reply)

    def _asked(self, request: ChatRequest, caller: Caller) -> Asked:
        answer_id = f"chatcmpl-{secrets.token_hex(12)}"
        user = user_of(self.config, request, caller)
        variant, is_assigned = self.config.teacher, self.state == "running"
        if is_assigned:
            anyone = user or f"request\0{answer_id}"
            variant = choose(self._weights, self.salt, self.name, anyone)
        request = request.model_copy(update={"model": self.config.model_of(variant)})
        conversation, prompt = self.storage.prompt_hashes(user or "", request.messages)
        place = Place(
            experiment=self.name,
            variant=variant,
            user=self.storage.hashed("user", user) if user else conversation,
            shares=self.shares if is_assigned else None,
        )
        started, created = time.perf_counter(), time.time()
        return Asked(answer_id, request, caller, place, conversation, prompt, started, created)

    async def note(
        self, asked: Asked, outcome: OutcomeName, completion: ChatCompletion | None = None
    ) -> None:
        """Record the outcome of an answer, and offer the request to the shadow."""
        record = asked.record(outcome, completion)
        self._watch(record, asked.caller)
        await self.storage.record(record)
        is_side = asked.place.variant in (self.config.student, self.config.teacher)
        if is_side and self.state == "running":
            self.shadow.offer(asked, asked.caller.num_bytes, asked.caller.owner)

    def note_cancelled(self, asked: Asked) -> None:
        """Record that a client disconnected before its answer was complete."""
        record = asked.record("cancelled")
        self._watch(record, asked.caller)
        self.storage.record_soon(record)

    def enter(self, state: State, reason: str) -> Future[None]:
        """Change the state, at once in this process.

        Returns:
            A future that is done when the state will survive a restart. If it fails, the state is
            written again until it is written.
        """
        logger.warning("experiment %s: %s because %s", self.name, state, reason)
        self._take(state)
        self._unwritten = {"name": self.name, "state": state, "reason": reason}
        return self._write_state(self._unwritten)

    def _write_state(self, row: dict[str, str]) -> Future[None]:
        def work(connection: Connection) -> None:
            insert = dialect_insert(connection, tables.experiments).values(row)
            connection.execute(insert.on_conflict_do_update(index_elements=["name"], set_=row))

        def written(future: Future[None]) -> None:
            if future.exception() is None and self._unwritten is row:
                self._unwritten = None

        future = self.storage.submit(work)
        future.add_done_callback(written)
        return future

    def _watch(self, record: AnswerRecord, caller: Caller) -> None:
        """Count an answer, and check the guardrails if it is the student's."""
        self._metrics.count(record)
        place = record.place
        if place is None or place.variant != self.config.student or self.state != "running":
            return
        breached = self.guardrails.update(record, caller.owner)
        if breached is not None:
            self.enter("fallback", f"{breached} is above its limit")

    def _take(self, state: State) -> None:
        if state == "running" and self.state != "running":
            self.guardrails = ExperimentGuardrails(self.config.guardrails)
        self.state = state

    async def _read_state(self) -> None:
        if self._unwritten is not None:
            await asyncio.wrap_future(self._write_state(self._unwritten))
            return
        columns = tables.experiments.c
        query = select(columns.state).where(columns.name == self.name)
        # Through the writer: it includes what this process has just written.
        reading = self.storage.submit(lambda connection: connection.scalar(query))
        stored = await asyncio.wrap_future(reading)
        if stored is not None and self._unwritten is None:
            self._take(stored)

    async def _watch_state(self) -> None:
        while True:
            await asyncio.sleep(STATE_SECONDS)
            try:
                await self._read_state()
            except Exception as error:
                logger.error("an experiment's state cannot be read: %s", type(error).__name__)

    async def _answer_in_shadow(self, asked: Asked) -> None:
        """Generate the other side's answer, and store it beside the client's."""
        config = self.config
        is_student = asked.place.variant == config.student
        variant = config.teacher if is_student else config.student
        # The first choice's text is compared; nobody pays for more.
        unused = {
            name: value
            for name, value in ONLY_FOR_CLIENTS.items()
            if getattr(asked.request, name) is not None
        }
        request = asked.request.model_copy(
            update={"model": config.model_of(variant), "stream": False, **unused}
        )
        shadow = replace(
            asked,
            answer_id=f"shadow-{secrets.token_hex(12)}",
            request=request,
            caller=Caller(asked.caller.key_name, asked.caller.headers),
            place=Place(self.name, variant, asked.place.user, shadow_of=asked.answer_id),
            started=time.perf_counter(),
            created=time.time(),
        )
        try:
            async with asyncio.timeout(config.shadow.timeout_seconds):
                completion = await _whole(self._backends[variant], request, shadow.caller)
        except RetryLaterError:
            self.shadow.num_dropped += 1
            return
        except Exception as error:
            record = shadow.record("failed")
            if isinstance(error, CLIENT_ERRORS):
                self._metrics.count(record)
            else:
                self._watch(record, asked.caller)
            self.storage.record_soon(record)
            raise
        record = shadow.record("whole", completion)
        self._watch(record, asked.caller)
        self.storage.record_soon(record)


async def _whole(backend: ChatBackend, request: ChatRequest, caller: Caller) -> ChatCompletion:
    reply = await backend.chat(request, caller)
    try:
        return await reply.complete()
    finally:
        reply.cancel()


class ExperimentReply:
    """The reply of a variant; it is stored before the client has all of it."""

    def __init__(self, experiment: Experiment, asked: Asked, reply: ChatReply) -> None:
        self._experiment, self._asked, self._reply = experiment, asked, reply
        self._is_noted = False
        self.headers: Mapping[str, str] = {
            VARIANT_HEADER: asked.place.variant,
            ANSWER_HEADER: asked.answer_id,
        }

    async def complete(self) -> ChatCompletion:
        """Wait for the whole answer; raises as the variant's does."""
        try:
            completion = await self._reply.complete()
        except Exception as error:
            await self._note_failure(error)
            raise
        completion = {**completion, "id": self._asked.answer_id}
        await self._note("whole", completion)
        return completion

    async def chunks(self) -> AsyncIterator[ChatCompletionChunk]:
        """Yield the answer as it is generated; raises as the variant's does."""
        assembler = ChunkAssembler()
        try:
            async for chunk in self._reply.chunks():
                chunk = {**chunk, "id": self._asked.answer_id}
                assembler.add(chunk)
                yield chunk
        except Exception as error:
            await self._note_failure(error)
            raise
        completion = assembler.completion
        await self._note("failed" if completion is None else "whole", completion)

    def cancel(self) -> None:
        """Stop what still works for this answer."""
        self._reply.cancel()
        if not self._is_noted:
            self._is_noted = True
            self._experiment.note_cancelled(self._asked)

    async def _note_failure(self, error: Exception) -> None:
        if isinstance(error, NOBODYS_ERRORS):
            self._is_noted = True
            return
        await self._note("failed")

    async def _note(self, outcome: OutcomeName, completion: ChatCompletion | None = None) -> None:
        self._is_noted = True
        await self._experiment.note(self._asked, outcome, completion)
