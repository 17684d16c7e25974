"""A cascade: the student answers first, the teacher where the student is unsure.

The decision is made before the first token is sent: the student's answer is generated whole, and
streamed only then. A client's time to the first token is the student's whole answer; where the
teacher takes over, that plus the teacher's own first token.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from serve.backends.local.turns import SharedThreads
from serve.backends.protocol import Caller, ChatBackend, ChatReply
from serve.experiment.config import CascadeConfig
from serve.experiment.wire import CascadeView
from serve.patterns import Pattern
from serve.wire.chat import ChatCompletion, ChatCompletionChunk, ChatRequest, ChoiceLogprobs
from serve.wire.chunks import NO_USAGE, as_chunks
from serve.wire.models import ModelCard, model_card

logger = logging.getLogger(__name__)

MILLION = 1e6
NO_LOGPROBS: ChoiceLogprobs = {"content": [], "refusal": None}

_threads = SharedThreads(2, "rules")
"""For patterns, which may take seconds, of all cascades."""


@dataclass
class CascadeCounts:
    """Counts since the server's start."""

    num_answers: int = 0
    num_escalated: int = 0
    student_tokens: int = 0
    """Completion tokens, discarded or not."""
    teacher_tokens: int = 0


class Cascade:
    """A cascade over two served models."""

    def __init__(
        self, name: str, config: CascadeConfig, student: ChatBackend, teacher: ChatBackend
    ) -> None:
        self.name, self.config = name, config
        self.student, self.teacher = student, teacher
        self.counts = CascadeCounts()
        self._created = int(time.time())
        self._answer_rule = _rule(config.answer_pattern)
        self._prompt_rule = _rule(config.prompt_pattern)

    @property
    def card(self) -> ModelCard:
        """The cascade as OpenAI lists a model."""
        return model_card(self.name, self._created)

    @property
    def is_ready(self) -> bool:
        """Whether both accept requests."""
        return self.student.is_ready and self.teacher.is_ready

    async def start(self) -> None:
        """Do nothing: both models' backends are started separately."""

    async def stop(self) -> None:
        """Do nothing."""

    async def chat(self, request: ChatRequest, caller: Caller) -> CascadeReply:
        """Forward to the student, or to the teacher if a rule matches; raises as they do."""
        reply = CascadeReply(self, request, caller)
        await reply.begin()
        return reply

    @property
    def view(self) -> CascadeView:
        """The share of answers by the teacher, and the cost."""
        counts, config = self.counts, self.config
        costs = (
            counts.student_tokens * config.student_price,
            counts.teacher_tokens * config.teacher_price,
        )
        return {
            "name": self.name,
            "student": config.student,
            "teacher": config.teacher,
            "answers": counts.num_answers,
            "escalated": counts.num_escalated,
            "share_escalated": (
                counts.num_escalated / counts.num_answers if counts.num_answers else None
            ),
            "student_tokens": counts.student_tokens,
            "teacher_tokens": counts.teacher_tokens,
            "cost": sum(costs) / MILLION,
        }

    async def skips_student(self, request: ChatRequest, owner: str) -> bool:
        """Return whether a prompt goes straight to the teacher."""
        texts = [one.text for one in request.messages if one.role == "user"]
        return await _is_in(self._prompt_rule, texts[-1] if texts else "", owner)

    async def is_unsure(self, completion: ChatCompletion, owner: str) -> bool:
        """Return whether an answer of the student is not good enough to be sent."""
        config = self.config
        for choice in completion["choices"]:
            if await _is_in(self._answer_rule, choice["message"]["content"] or "", owner):
                return True
            if config.most_tokens is not None and choice["finish_reason"] == "length":
                return True
        num_tokens = _num_tokens(completion) / len(completion["choices"])
        if config.most_tokens is not None and num_tokens > config.most_tokens:
            return True
        if config.least_mean_logprob is None:
            return False
        # Without log-probabilities there is no confidence.
        found = mean_logprob(completion)
        return found is None or found < config.least_mean_logprob


class CascadeReply:
    """The student's answer, or the teacher's in its place."""

    def __init__(self, cascade: Cascade, request: ChatRequest, caller: Caller) -> None:
        self._cascade, self._request, self._caller = cascade, request, caller
        self._reply: ChatReply | None = None
        self._is_escalated = False

    async def begin(self) -> None:
        """Start the first model's answer; raises as its backend does."""
        if await self._cascade.skips_student(self._request, self._caller.owner):
            await self._ask_teacher()
            return
        config = self._cascade.config
        update: dict[str, object] = {"model": config.student, "stream": False}
        if config.least_mean_logprob is not None:
            update["logprobs"] = True
        asked = self._request.model_copy(update=update)
        self._reply = await self._cascade.student.chat(asked, self._caller)

    async def complete(self) -> ChatCompletion:
        """Wait for the whole answer; raises as its backend does."""
        completion = await self._students_answer()
        if completion is None:
            assert self._reply is not None
            completion = await self._reply.complete()
            self._cascade.counts.teacher_tokens += _num_tokens(completion)
        return completion

    async def chunks(self) -> AsyncIterator[ChatCompletionChunk]:
        """Yield the answer, after the decision between the models; raises as its backend does."""
        completion = await self._students_answer()
        if completion is not None:
            for chunk in as_chunks(completion):
                yield chunk
            return
        assert self._reply is not None
        num_tokens = 0
        async for chunk in self._reply.chunks():
            usage = chunk.get("usage")
            num_tokens = usage["completion_tokens"] if usage else num_tokens
            yield chunk
        self._cascade.counts.teacher_tokens += num_tokens

    def cancel(self) -> None:
        """Stop what still works for this answer."""
        if self._reply is not None:
            self._reply.cancel()

    async def _students_answer(self) -> ChatCompletion | None:
        """Return the student's answer; None once the teacher's is started in its place."""
        counts = self._cascade.counts
        if not self._is_escalated:
            assert self._reply is not None
            completion = await self._reply.complete()
            counts.student_tokens += _num_tokens(completion)
            if not await self._cascade.is_unsure(completion, self._caller.owner):
                counts.num_answers += 1
                return completion if self._request.logprobs else _without_logprobs(completion)
            await self._ask_teacher()
        counts.num_answers += 1
        counts.num_escalated += 1
        return None

    async def _ask_teacher(self) -> None:
        self._is_escalated = True
        asked = self._request.model_copy(update={"model": self._cascade.config.teacher})
        self._reply = await self._cascade.teacher.chat(asked, self._caller)


def _rule(source: str | None) -> Pattern | None:
    return Pattern(source) if source else None


def _num_tokens(completion: ChatCompletion) -> int:
    # Upstream servers may leave out the usage, or send null.
    return (completion.get("usage") or NO_USAGE)["completion_tokens"]


async def _is_in(rule: Pattern | None, text: str, owner: str) -> bool:
    """Return whether a rule matches, or takes too long to say: then the teacher answers."""
    if rule is None:
        return False
    try:
        return await _threads.run(lambda: rule.is_in(text), owner)
    except TimeoutError:
        logger.warning("a cascade's pattern takes too long")
        return True


def mean_logprob(completion: ChatCompletion) -> float | None:
    """Return the mean log-probability of an answer's tokens, in nats; None without any."""
    logprobs = [
        token["logprob"]
        for choice in completion["choices"]
        for token in (choice.get("logprobs") or NO_LOGPROBS)["content"] or ()
    ]
    return sum(logprobs) / len(logprobs) if logprobs else None


def _without_logprobs(completion: ChatCompletion) -> ChatCompletion:
    choices = [{**choice, "logprobs": None} for choice in completion["choices"]]
    return {**completion, "choices": choices}  # type: ignore[typeddict-item]
