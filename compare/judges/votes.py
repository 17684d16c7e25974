"""Votes of people as a judge, as `potstill label` records them and a server lists them.

In: a JSONL file. Out: pairs with judgments. A line is

    {"prompt_id": TEXT or null, "messages": [...],
     "left": {"role": "student" | "teacher", "model": TEXT, "answer": TEXT}, "right": {...},
     "vote": "left" | "right" | "tie" | "both_bad", "voter": TEXT, "created": UTC time,
     "comparison": TEXT or null}

Of several votes of one voter on the same prompt and answers, the last one counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from compare.answers.jsonl import read_lines
from compare.answers.questions import Question, messages_id, slices_of
from compare.judges.protocol import Judgment, Pair, Vote, is_of
from potstill.schema import Message

Said = Literal["left", "right", "tie", "both_bad"]

SOURCE = "votes"
EXPECTED = (
    '{"messages": [...], "left": {"role": "student", "model": "...", "answer": "..."}, '
    '"right": {...}, "vote": "left", "voter": "..."} on each line'
)


class VotedAnswer(BaseModel):
    """One of the two answers that were shown."""

    model_config = ConfigDict(extra="ignore")
    role: Literal["student", "teacher"]
    model: str
    answer: str


class HumanVote(BaseModel):
    """One line of the file."""

    model_config = ConfigDict(extra="ignore")
    messages: tuple[Message, ...]
    left: VotedAnswer
    right: VotedAnswer
    vote: Said
    voter: str
    prompt_id: str | None = None
    created: str | None = None
    comparison: str | None = None
    """Digest of the models and settings whose answers these are."""

    @model_validator(mode="after")
    def _is_of_two_sides(self) -> Self:
        if self.left.role == self.right.role:
            raise ValueError("a vote is between a student's and a teacher's answer")
        return self

    @property
    def pair_id(self) -> tuple[str, ...]:
        """Identity of the pair."""
        return pair_id(self.messages, (self.left.answer, self.right.answer))


def read_human_votes(path: Path, comparison: str | None = None) -> list[HumanVote]:
    """Return the last vote of each voter on each pair; none where there is no file yet.

    Args:
        comparison: As in `is_of`.

    Raises:
        ArtifactError: The file cannot be read, or a line is not a vote.
    """
    if not path.exists():
        return []
    votes = read_lines(path, HumanVote, what="votes", expected=EXPECTED)
    own = (vote for vote in votes if is_of(vote.comparison, comparison))
    return list({(vote.voter, *vote.pair_id): vote for vote in own}.values())


def read_votes(path: Path, comparison: str | None = None) -> list[tuple[Pair, Judgment]]:
    """Return each vote as a pair and its judgment; as `read_human_votes` does."""
    return [_judged(vote) for vote in read_human_votes(path, comparison)]


def pair_id(messages: Sequence[Message], answers: Iterable[str]) -> tuple[str, ...]:
    """Return the identity of two answers to a prompt, whichever stands left."""
    return (messages_id(messages), *sorted(answers))


def _judged(vote: HumanVote) -> tuple[Pair, Judgment]:
    student_left = vote.left.role == "student"
    student, teacher = (vote.left, vote.right) if student_left else (vote.right, vote.left)
    prompt_id = vote.prompt_id or messages_id(vote.messages)
    question = Question(
        prompt_id=prompt_id,
        conversation_id=prompt_id,
        cluster_id=prompt_id,
        source=SOURCE,
        messages=vote.messages,
        slices=slices_of(vote.messages, SOURCE),
    )
    won = {"left": student_left, "right": not student_left}.get(vote.vote)
    winner: Literal["student", "teacher", "tie"] = "tie"
    if won is not None:
        winner = "student" if won else "teacher"
    score = 0.5 if won is None else float(won)
    place: Literal["first", "second"] = "first" if student_left else "second"
    read = Vote(student_place=place, winner=winner, reason=vote.vote)
    pair = Pair(question, 0, student.answer, teacher.answer)
    return pair, Judgment(score=score, votes=(read,))
