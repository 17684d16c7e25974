"""The protocol of judges, and the values that they take and return.

In: pairs of a student's and a teacher's answer. Out: one judgment per pair, from the student's
view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from compare.answers.questions import Question, messages_id
from potstill.schema import Value
from potstill.task.answers import Answer

Claim = Literal["quality", "similarity"]
"""What a judge measures: which answer is better, or which is more similar to the teacher's."""
Answerer = Literal["student", "teacher"]
Side = Answerer | Literal["tie"]
Place = Literal["first", "second"]
PairKey = tuple[str, str, str]


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt; in a control, the student's is a changed answer of the teacher."""

    question: Question
    sample: int
    student: str
    teacher: str
    student_finished: bool = True
    """Whether it ended before the limit of tokens."""
    teacher_finished: bool = True
    student_refused: bool = False
    """Whether the endpoint refused the prompt, or failed in live traffic: the answer is empty."""
    teacher_refused: bool = False
    student_content: Answer | None = None
    """Text and calls, as the task's metrics read them; None where no metric does."""
    teacher_content: Answer | None = None

    @property
    def key(self) -> PairKey:
        """Identity of the pair in all tables: a hash of the messages, and both texts."""
        return messages_id(self.question.messages), self.student, self.teacher


class Vote(Value):
    """One reading of a pair."""

    student_place: Place
    """Place of the student's answer."""
    winner: Side | None
    """None when the reading failed."""
    reason: str = ""
    """The judge's reason, or why the reading failed."""


class Reading(Value):
    """Whether one answer meets one criterion."""

    side: Answerer
    criterion: str
    meets: bool | None
    """None when the reading failed."""
    reason: str = ""
    """The judge's reason, or why the reading failed."""


class Judgment(Value):
    """A judge's result for one pair."""

    score: float | None
    """0 if the teacher's answer is better, 1/2 for a tie, 1 if the student's is; None without a
    decision."""
    votes: tuple[Vote, ...] = ()
    readings: tuple[Reading, ...] = ()
    """Of both answers, of a judge of criteria."""
    student_value: float | None = None
    """Measurement of the student's answer, of a judge that measures each answer."""
    teacher_value: float | None = None
    failure: str | None = None
    """Reason for a missing score."""
    note: str | None = None
    """Why the score is known without the judge."""
    expected: str | None = None
    """What a metric reads in the known answer, such as its label."""
    student_found: str | None = None
    """What it reads in the student's answer in its place."""
    teacher_found: str | None = None
    student_problem: str | None = None
    """Why the student's measurement is not 1."""
    teacher_problem: str | None = None


def is_of(stated: str | None, comparison: str | None) -> bool:
    """Return whether a person's line about answers is of a comparison.

    Lines of other comparisons would count where both had the same answers only, which are no random
    ones.

    Args:
        stated: Digest of the models and settings in the line; None where it states none.
        comparison: That of the comparison; None: any.
    """
    return None in (stated, comparison) or stated == comparison


class Usage(Value):
    """The requests of a judge and their cost."""

    num_requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    """In the currency of the configured prices."""


class Judge(Protocol):
    """Compares pairs of answers."""

    name: str
    kind: str
    claim: Claim = "quality"
    model: str | None = None
    """Name of its model, if it has one."""
    measures: bool
    """Whether it measures each answer, from 0 to 1; otherwise it prefers one."""
    needs_assay: bool
    """Whether it may err, so that pairs with a known result must test it."""
    blind_to: frozenset[str] = frozenset()
    """Controls whose damage this kind of judge cannot see by design."""

    def judge(self, pairs: Sequence[Pair], label: str) -> list[Judgment]:
        """Return a judgment for each pair, in order; a failure is part of it and never raised.

        Args:
            label: Name of the pairs for the progress bar, the same for controls.
        """

    def usage(self) -> Usage:
        """Return the cost of all judgments so far, including cached ones."""
        return Usage()
