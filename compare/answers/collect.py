"""All answers that a comparison needs.

In: questions, both sides, how answers are sampled. Out: answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from compare.answers.answers import Answer, AnswerBook, Role, Sampling, Wanted
from compare.answers.cache import JsonCache
from compare.answers.client import Endpoint
from compare.answers.consumption import Consumption, metered
from compare.answers.questions import Question
from compare.answers.requests import Ask
from compare.answers.serving import Serving, Side, Sides, name_of


@dataclass(frozen=True)
class Collection:
    """The answers of all models to the same prompts.

    Args:
        sides: Of student, teacher and, if there is one, a model known to be worse.
        num_controls: Number of prompts, from the first, that the teacher answers once more and a
            model known to be worse answers too: for the assay of judges.
        others: Further models.
        asked_others: The prompts that each of them answers once.
        given: Answers that need not be requested, by role and prompt.
    """

    questions: Sequence[Question]
    sides: Sides
    asks: Mapping[Role, Ask]
    sampling: Sampling
    samples_per_prompt: int
    num_controls: int
    cache: JsonCache
    others: Sides = field(default_factory=dict)
    asked_others: Mapping[Role, Sequence[Question]] = field(default_factory=dict)
    given: Mapping[Role, Mapping[str, dict[str, Any]]] = field(default_factory=dict)

    @property
    def _all(self) -> dict[Role, Side]:
        return {**self.sides, **self.others}

    def book(self) -> AnswerBook:
        """Return the book of all these answers."""
        return AnswerBook(
            self.cache,
            self._wanted(),
            self.sampling,
            {role: side.identity for role, side in self._all.items()},
            {role: name_of(side) for role, side in self._all.items()},
            self.asks,
            self.given,
        )

    def answers(self, serving: Serving) -> list[Answer]:
        """Return all answers; no server is started when all are stored.

        One model is served at a time, so that none takes memory or time from another.

        Raises:
            BackendError: An endpoint fails.
        """
        book = self.book()
        missing = dict.fromkeys(one.role for one in book.missing())
        by_model: dict[str, dict[Role, Side]] = {}
        for role in missing:
            side = self._all[role]
            by_model.setdefault(side.identity, {})[role] = side
        for sides in by_model.values():
            with serving.served(sides) as endpoints:
                for role, endpoint in endpoints.items():
                    self._fill(book, role, endpoint, serving.config.max_concurrency)
        return book.answers()

    def consumption(self, role: Role) -> Consumption | None:
        """Return what a role's answers took; None where they were kept from another comparison."""
        stored = self.cache.get(_consumed(self.book(), role))
        return None if stored is None else Consumption.model_validate(stored)

    def _fill(self, book: AnswerBook, role: Role, endpoint: Endpoint, max_concurrency: int) -> None:
        num_before = len(book.missing())
        with metered() as meter:
            book.fill({role: endpoint}, max_concurrency)
        name = _consumed(book, role)
        used = Consumption(
            num_answers=num_before - len(book.missing()),
            seconds=meter.seconds,
            processor_seconds=meter.processor_seconds,
            joules=meter.joules,
        )
        earlier = Consumption.model_validate(self.cache.get(name) or {})
        self.cache.put(name, (earlier + used).model_dump())

    def _wanted(self) -> list[Wanted]:
        roles: tuple[Role, ...] = ("teacher", "student")
        wanted = [
            Wanted(role, question, sample)
            for question in self.questions
            for sample in range(self.samples_per_prompt)
            for role in roles
        ]
        controls = self.questions[: self.num_controls]
        if self.sampling.temperature > 0:
            wanted += [Wanted("teacher", one, self.samples_per_prompt) for one in controls]
        if "known_worse" in self.sides:
            wanted += [Wanted("known_worse", one, 0) for one in controls]
        others = self.asked_others.items()
        return wanted + [Wanted(role, one, 0) for role, asked in others for one in asked]


def _consumed(book: AnswerBook, role: Role) -> str:
    return f"consumed-{book.digest(role)}"
