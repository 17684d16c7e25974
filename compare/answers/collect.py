"""All answers that a comparison needs.

In: questions, both sides, how answers are sampled. Out: answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compare.answers.answers import Answer, AnswerBook, Role, Sampling, Wanted
from compare.answers.cache import JsonCache
from compare.answers.questions import Question
from compare.answers.requests import Ask
from compare.answers.serving import Serving, Sides, name_of


@dataclass(frozen=True)
class Collection:
    """The answers of all models to the same prompts.

    Args:
        num_controls: Number of prompts, from the first, that the teacher answers once more and a
            model known to be worse answers too: for the assay of judges.
    """

    questions: Sequence[Question]
    sides: Sides
    asks: Mapping[Role, Ask]
    sampling: Sampling
    samples_per_prompt: int
    num_controls: int
    cache: JsonCache

    def book(self) -> AnswerBook:
        """Return the book of all these answers."""
        return AnswerBook(
            self.cache,
            self._wanted(),
            self.sampling,
            {role: side.identity for role, side in self.sides.items()},
            {role: name_of(side) for role, side in self.sides.items()},
            self.asks,
        )

    def answers(self, serving: Serving) -> list[Answer]:
        """Return all answers; no server is started when all are stored.

        Raises:
            BackendError: An endpoint fails.
        """
        book = self.book()
        missing = {one.role for one in book.missing()}
        if missing:
            asked: Sides = {role: self.sides[role] for role in self.sides if role in missing}
            with serving.served(asked) as endpoints:
                book.fill(endpoints, serving.config.max_concurrency)
        return book.answers()

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
        return wanted
