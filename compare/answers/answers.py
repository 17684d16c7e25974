"""Answers of both models to the same prompts, over OpenAI's API.

In: endpoints and questions. Out: `Answer`s; each is stored when it arrives, and a stored one is not
requested again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import openai

from compare.answers.bounded import gather_bounded
from compare.answers.cache import JsonCache
from compare.answers.client import Endpoint, backend_errors, wire_messages
from compare.answers.questions import Question
from compare.answers.requests import Ask, Request, as_given
from potstill.errors import BackendError
from potstill.progress import Progress, track
from potstill.schema import Message, Value
from potstill.task import answers as task
from potstill.task.items import tool_calls_in
from potstill.thinking import answer_of
from potstill.tools.formats import HERMES
from potstill.tools.parsing import split_answer

Role = str
"""Who answers: "student", "teacher", "known_worse", or the name of another candidate."""
REFUSED = "error"
"""Finish reason where the endpoint refused the prompt."""
REFUSALS = (openai.BadRequestError, openai.UnprocessableEntityError, openai.PermissionDeniedError)
"""Errors that concern one prompt (too long, filtered) and not the server."""
TOO_LARGE_STATUS = 413
CALL_FIELDS: Any = {"id": True, "type": True, "function": {"name", "arguments"}}


@dataclass(frozen=True)
class Sampling:
    """How answers are sampled."""

    temperature: float
    max_tokens: int
    seed: int

    def seed_of(self, question: Question, sample: int) -> int:
        """Return the seed of one answer: 31 bits, the same on every machine."""
        text = f"{self.seed} {question.prompt_id} {sample}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


class Answer(Value):
    """One answer; a row of PAIR_SCHEMA."""

    prompt_id: str
    conversation_id: str
    messages: tuple[Message, ...]
    role: Role
    model: str
    sample: int
    """Number of this answer among those of its model to its prompt."""
    seed: int
    answer: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float | None
    """From the request to the complete answer, with other requests in flight; None of an answer
    that the run's conversations had already."""
    tool_calls: str | None = None
    """JSON list of calls, as OpenAI spells them; None: none."""

    @property
    def is_refused(self) -> bool:
        """Whether the endpoint refused this prompt: the answer is then empty."""
        return self.finish_reason == REFUSED

    @property
    def content(self) -> task.Answer:
        """Text and calls, as metrics read them."""
        message = Message(role="assistant", content=self.answer, tool_calls=self.tool_calls)
        return task.Answer.from_message(message)

    @property
    def shown(self) -> str:
        """Text and calls as one text, as people and judges read them."""
        calls = (f"{call.name}({call.arguments})" for call in self.content.tool_calls)
        return "\n".join(filter(None, [self.answer, *calls]))


def by_role(answers: Iterable[Answer]) -> dict[Role, list[Answer]]:
    """Return each role's answers."""
    found: dict[Role, list[Answer]] = {}
    for one in answers:
        found.setdefault(one.role, []).append(one)
    return found


def means_by_prompt(
    answers: Iterable[Answer], value: Callable[[Answer], float | None]
) -> dict[str, float]:
    """Return the mean value of answers by prompt; answers without one are left out."""
    found: dict[str, list[float]] = {}
    for answer in answers:
        known = value(answer)
        if known is not None:
            found.setdefault(answer.prompt_id, []).append(known)
    return {prompt_id: fmean(values) for prompt_id, values in found.items()}


@dataclass(frozen=True)
class Wanted:
    """An answer to request."""

    role: Role
    question: Question
    sample: int


class AnswerBook:
    """The answers of several models to the same prompts.

    Args:
        cache: Where answers are stored.
        wanted: The answers to request.
        identities: Of each role's model, part of an answer's cache key.
        names: Of each role's model, for the report.
        asks: How each role is asked; without one, with the question's own messages.
        given: Answers that need not be requested, by role and prompt.
    """

    def __init__(
        self,
        cache: JsonCache,
        wanted: Sequence[Wanted],
        sampling: Sampling,
        identities: Mapping[Role, str],
        names: Mapping[Role, str],
        asks: Mapping[Role, Ask] | None = None,
        given: Mapping[Role, Mapping[str, dict[str, Any]]] | None = None,
    ) -> None:
        self._cache, self._wanted, self._sampling = cache, list(wanted), sampling
        self._identities, self._names, self._asks = identities, names, asks or {}
        self._given = given or {}

    def missing(self) -> list[Wanted]:
        """Return the wanted answers that are not stored."""
        return [one for one in self._wanted if self._stored(one) is None]

    def fill(self, endpoints: Mapping[Role, Endpoint], max_concurrency: int) -> None:
        """Request what is missing of the given endpoints' answers, of one model after the other.

        A model alone has all of the machine, and what its prompts have in common stays cached.

        Raises:
            BackendError: An endpoint fails, or refuses every prompt.
        """
        missing = [one for one in self.missing() if one.role in endpoints]
        order = list(dict.fromkeys(one.role for one in self._wanted))
        missing.sort(key=lambda one: order.index(one.role))
        num_wanted = sum(one.role in endpoints for one in self._wanted)
        with track("answering held-out prompts", num_wanted, "answers") as progress:
            progress.resume_from(num_wanted - len(missing))
            asyncio.run(self._fill(endpoints, missing, max_concurrency, progress))
        for role in {one.role for one in missing}:
            self._require_answers(role)

    async def _fill(
        self,
        endpoints: Mapping[Role, Endpoint],
        missing: Sequence[Wanted],
        max_concurrency: int,
        progress: Progress,
    ) -> None:
        clients = {role: endpoint.open() for role, endpoint in endpoints.items()}

        async def work(one: Wanted) -> None:
            seed = self._sampling.seed_of(one.question, one.sample)
            stored = await ask(
                clients[one.role],
                endpoints[one.role],
                self._request(one),
                temperature=self._sampling.temperature,
                max_tokens=self._sampling.max_tokens,
                seed=seed,
            )
            self._cache.put(self._key(one), stored)

        try:
            await gather_bounded(work, missing, max_concurrency, progress.advance)
        finally:
            for client in clients.values():
                await client.close()

    def answers(self) -> list[Answer]:
        """Return the stored answers, in the order of `wanted`."""
        found = []
        for one in self._wanted:
            stored = self._stored(one)
            if stored is not None:
                found.append(self._answer(one, stored))
        return found

    def _answer(self, one: Wanted, stored: dict[str, Any]) -> Answer:
        if self._request(one).reads_calls and not stored.get("tool_calls"):
            stored = stored | _with_calls(stored["answer"])
        return Answer(
            prompt_id=one.question.prompt_id,
            conversation_id=one.question.conversation_id,
            messages=one.question.messages,
            role=one.role,
            model=self._names[one.role],
            sample=one.sample,
            seed=self._sampling.seed_of(one.question, one.sample),
            **stored,
        )

    def digest(self, role: Role) -> str:
        """Return a hash of all wanted answers of a role."""
        keys = [self._key(one) for one in self._wanted if one.role == role]
        return hashlib.sha256(" ".join(keys).encode()).hexdigest()[:32]

    def _stored(self, one: Wanted) -> dict[str, Any] | None:
        given = self._given.get(one.role, {}).get(one.question.prompt_id)
        return self._cache.get(self._key(one)) if given is None else given

    def _request(self, one: Wanted) -> Request:
        return self._asks.get(one.role, as_given)(one.question)

    def _require_answers(self, role: Role) -> None:
        given = [answer for answer in self.answers() if answer.role == role]
        if given and all(answer.is_refused for answer in given):
            raise BackendError(
                "an endpoint refuses every prompt",
                where=f"model {self._names[role]}",
                expected="answers to most prompts",
                found=f"{len(given)} refusals",
                hint="send it one prompt by hand: its name, its key or its context may be wrong",
            )

    def _key(self, one: Wanted) -> str:
        request = self._request(one)
        content = [
            self._identities[one.role],
            wire_messages(request.messages),
            *([request.tools] if request.tools else []),
            *([request.schema] if request.schema else []),
            *([request.grammar] if request.grammar else []),
            self._sampling.temperature,
            self._sampling.max_tokens,
            self._sampling.seed_of(one.question, one.sample),
        ]
        return f"answer-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]}"


async def ask(
    client: openai.AsyncOpenAI,
    endpoint: Endpoint,
    request: Request,
    *,
    temperature: float,
    max_tokens: int,
    seed: int,
) -> dict[str, Any]:
    """Return one answer, with its usage and the seconds it took.

    Raises:
        BackendError: The endpoint fails.
    """
    started = time.perf_counter()
    with backend_errors(endpoint.model):
        try:
            completion = await client.chat.completions.create(
                model=endpoint.model,
                messages=wire_messages(request.messages),
                tools=request.wire_tools,
                response_format=request.wire_format,
                temperature=temperature,
                seed=seed,
                extra_body=request.extra_body(endpoint, max_tokens),
            )
        except openai.APIStatusError as error:
            if not isinstance(error, REFUSALS) and error.status_code != TOO_LARGE_STATUS:
                raise
            return _stored("", None, REFUSED, 0, 0, started)
    if not completion.choices or completion.usage is None:
        raise BackendError("an answer has no choices or no usage", where=f"model {endpoint.model}")
    choice, usage = completion.choices[0], completion.usage
    calls = [
        call.model_dump(include=CALL_FIELDS)
        for call in choice.message.tool_calls or ()
        if call.type == "function"
    ]
    return _stored(
        answer_of(choice.message.content or ""),
        json.dumps(calls, ensure_ascii=False) if calls else None,
        choice.finish_reason,
        usage.prompt_tokens,
        usage.completion_tokens,
        started,
    )


def _with_calls(text: str) -> dict[str, Any]:
    """Return an answer's text and the calls that are written in it, as Hermes or as bare JSON."""
    rest, found = split_answer(HERMES, text)
    calls = tuple(task.ToolCall(name=name, arguments=arguments) for name, arguments in found)
    if not calls:
        rest, calls = "", tool_calls_in(text) or ()
    if not calls:
        return {}
    return {
        "answer": rest.strip(),
        "tool_calls": task.Answer(tool_calls=calls).to_message().tool_calls,
    }


def _stored(
    text: str,
    tool_calls: str | None,
    reason: str,
    prompt_tokens: int,
    completion_tokens: int,
    started: float,
) -> dict[str, Any]:
    return {
        "answer": text,
        "tool_calls": tool_calls,
        "finish_reason": reason,
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "seconds": time.perf_counter() - started,
    }
