"""What a judge is: pairs of answers in, one judgment a pair out.

In: pairs of a student's and a teacher's answer. Out: judgments from the student's view.
Knows nothing of how a judge decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from compare.answers.questions import Question, messages_id
from potstill.schema import Value

Claim = Literal["quality", "similarity"]
"""What a judge speaks of: which answer is better, or which is more like the teacher's."""
Side = Literal["student", "teacher", "tie"]
Place = Literal["first", "second"]
PairKey = tuple[str, str, str]


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt; in a control, what stands for the student's is a damaged one."""

    question: Question
    sample: int
    student: str
    teacher: str
    student_finished: bool = True
    """Whether it ended by itself, not at the limit of tokens."""
    teacher_finished: bool = True
    student_refused: bool = False
    """Whether the endpoint refused the prompt, or failed before a user: there is no answer then."""
    teacher_refused: bool = False

    @property
    def key(self) -> PairKey:
        """What identifies the pair of answers in whatever table it is: messages and both texts."""
        return messages_id(self.question.messages), self.student, self.teacher


class Vote(Value):
    """One reading of a pair."""

    student_place: Place
    """Where the student's answer stood."""
    winner: Side | None
    """None when nothing usable was said."""
    reason: str = ""
    """Why, in the judge's words; or what was wrong with what it said."""


class Judgment(Value):
    """What a judge says of one pair."""

    score: float | None
    """From 0, the teacher's is better, over 1/2, a tie, to 1, the student's is; None when the judge
    has not decided."""
    votes: tuple[Vote, ...] = ()
    student_value: float | None = None
    """The student's own figure, of a judge that measures each answer."""
    teacher_value: float | None = None
    failure: str | None = None
    """Why there is no score."""
    note: str | None = None
    """Why nobody needed to be asked."""


class Usage(Value):
    """What a judge has cost."""

    num_requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    """In the currency of the configured prices."""


class Judge(Protocol):
    """Someone who compares answers."""

    name: str
    kind: str
    claim: Claim
    model: str | None
    """The model behind it, if there is one."""
    measures: bool
    """Whether it gives each answer a figure from 0 to 1; otherwise it prefers one."""
    blind_to: frozenset[str]
    """Controls whose damage this kind of judge cannot see, and need not."""

    def judge(self, pairs: Sequence[Pair], label: str) -> list[Judgment]:
        """Return a judgment for each pair, in order; what fails is told in it and never raised.

        Args:
            label: What the pairs are, for the progress shown.
        """

    def usage(self) -> Usage:
        """Return what all judgments so far have cost, stored ones included."""
