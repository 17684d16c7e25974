"""A model as judge, which reads each pair in both orders and answers in JSON.

In: an endpoint, a rubric, pairs. Out: judgments.

Source: swapping against position bias as in Zheng et al. 2023 (arXiv 2306.05685), section 3.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from compare.answers.cache import JsonCache
from compare.answers.client import Endpoint
from compare.judge_config import LlmJudgeConfig
from compare.judges.protocol import Judge, Judgment, Pair, Place, Side, Usage, Vote
from compare.judges.reader import Reader, marked_text, schema_of_reply
from potstill.schema import Message, Value

PLACES: tuple[Place, ...] = ("first", "second")
VALUES: dict[Side, float] = {"student": 1.0, "tie": 0.5, "teacher": 0.0}


class Reply(Value):
    """The model's reply."""

    reason: str
    winner: Literal["A", "B", "tie"]


class LlmJudge(Judge):
    """A model behind OpenAI's API that reads each pair twice.

    Args:
        cache: Where readings are stored, without failures.
    """

    kind = "llm"
    measures = False
    needs_assay = True

    def __init__(
        self, config: LlmJudgeConfig, endpoint: Endpoint, cache: JsonCache, max_concurrency: int
    ) -> None:
        self.name = config.name
        self.model = endpoint.model
        self._disagreement = config.disagreement
        self._reader = Reader(
            config,
            endpoint,
            cache,
            max_concurrency,
            reply=Reply,
            response_format=schema_of_reply("verdict", "winner", ("A", "B", "tie")),
        )

    def usage(self) -> Usage:
        """Return the cost of all readings so far."""
        return self._reader.usage

    def judge(self, pairs: Sequence[Pair], label: str) -> list[Judgment]:
        """Read each pair in both orders."""
        replies = self._reader.read(
            [_text(pair, place) for pair in pairs for place in PLACES], label
        )
        votes = [_vote(reply, PLACES[index % len(PLACES)]) for index, reply in enumerate(replies)]
        return [
            combine(votes[index : index + 2], self._disagreement)
            for index in range(0, len(votes), 2)
        ]


def question_text(messages: Sequence[Message], first: str, second: str) -> str:
    """Return a conversation and two answers as a judge's prompt."""
    question = 'Which answer is better? Give one short reason, then "A", "B" or "tie" as JSON.'
    return marked_text(messages, {"answer A": first, "answer B": second}, question)


def combine(votes: Sequence[Vote], disagreement: Literal["tie", "half"]) -> Judgment:
    """Return the judgment of both orders' votes; without a score if one failed."""
    values = [VALUES[vote.winner] for vote in votes if vote.winner is not None]
    if len(values) < len(votes):
        failure = next(vote.reason for vote in votes if vote.winner is None)
        return Judgment(score=None, votes=tuple(votes), failure=failure)
    agree = len(set(values)) == 1
    score = values[0] if agree else 0.5 if disagreement == "tie" else sum(values) / len(values)
    return Judgment(score=score, votes=tuple(votes))


def _text(pair: Pair, place: Place) -> str:
    answers = (pair.student, pair.teacher)
    return question_text(pair.question.messages, *(answers if place == "first" else answers[::-1]))


def _vote(reply: Reply | str, place: Place) -> Vote:
    if isinstance(reply, str):
        return Vote(student_place=place, winner=None, reason=reply)
    return Vote(student_place=place, winner=_side(reply.winner, place), reason=reply.reason)


def _side(winner: Literal["A", "B", "tie"], student_place: Place) -> Side:
    if winner == "tie":
        return "tie"
    return "student" if (winner == "A") == (student_place == "first") else "teacher"
