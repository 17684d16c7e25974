"""A model as judge of yes/no criteria, which reads each answer alone.

In: an endpoint, criteria, pairs. Out: judgments; an answer's value is the share of the criteria
that it meets. The judge may err, and otherwise on the student's answers than on the teacher's:
`compare.verdict.criteria` corrects it by people's labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Literal

from compare.answers.cache import JsonCache
from compare.answers.client import Endpoint
from compare.judge_config import CriteriaJudgeConfig
from compare.judges.protocol import Answerer, Judge, Judgment, Pair, Reading, Usage
from compare.judges.reader import Reader, marked_text, schema_of_reply
from compare.judges.reference import measured
from potstill.schema import Message, Value

SAME = "the answers are the same"
QUESTION = (
    'Give one short reason, then whether the answer meets the criterion, "yes" or "no", as JSON.'
)


class Reply(Value):
    """The model's reply."""

    reason: str
    meets: Literal["yes", "no"]


class CriteriaJudge(Judge):
    """A model behind OpenAI's API that reads each answer once for each criterion.

    No assay tests it: damaged answers may meet criteria, and labels of real answers show its errors
    on real answers.

    Args:
        cache: Where readings are stored, without failures.
    """

    kind = "criteria"
    measures = True
    needs_assay = False

    def __init__(
        self,
        config: CriteriaJudgeConfig,
        endpoint: Endpoint,
        cache: JsonCache,
        max_concurrency: int,
    ) -> None:
        self.name = config.name
        self.model = endpoint.model
        self._criteria = config.criteria
        self._reader = Reader(
            config,
            endpoint,
            cache,
            max_concurrency,
            reply=Reply,
            response_format=schema_of_reply("criterion", "meets", ("yes", "no")),
        )

    def usage(self) -> Usage:
        """Return the cost of all readings so far."""
        return self._reader.usage

    def judge(self, pairs: Sequence[Pair], label: str) -> list[Judgment]:
        """Read both answers of each pair; equal ones once."""
        texts = {
            _text(pair.question.messages, answer, criterion): None
            for pair in pairs
            for answer in (pair.student, pair.teacher)
            if answer.strip()
            for criterion in self._criteria
        }
        replies = dict(zip(texts, self._reader.read(list(texts), label), strict=True))
        return [self._judge(pair, replies) for pair in pairs]

    def _judge(self, pair: Pair, replies: Mapping[str, Reply | str]) -> Judgment:
        of_student = self._readings("student", pair, replies)
        of_teacher = self._readings("teacher", pair, replies)
        readings = (*of_student, *of_teacher)
        failure = next((one.reason for one in readings if one.meets is None), None)
        note = SAME if pair.student == pair.teacher else None
        if failure is not None:  # Equal answers are no different, whatever they meet.
            return Judgment(
                score=0.5 if note else None, readings=readings, failure=failure, note=note
            )
        student, teacher = (fmean(bool(one.meets) for one in of) for of in (of_student, of_teacher))
        return measured(student, teacher).model_copy(update={"readings": readings, "note": note})

    def _readings(
        self, side: Answerer, pair: Pair, replies: Mapping[str, Reply | str]
    ) -> list[Reading]:
        answer = pair.student if side == "student" else pair.teacher
        texts = (_text(pair.question.messages, answer, criterion) for criterion in self._criteria)
        return [
            _reading(side, criterion, replies.get(text))
            for criterion, text in zip(self._criteria, texts, strict=True)
        ]


def _reading(side: Answerer, criterion: str, reply: Reply | str | None) -> Reading:
    """Return a reading; no answer at all, which is not read, meets no criterion."""
    if reply is None:
        return Reading(side=side, criterion=criterion, meets=False, reason="no answer")
    if isinstance(reply, str):
        return Reading(side=side, criterion=criterion, meets=None, reason=reply)
    return Reading(side=side, criterion=criterion, meets=reply.meets == "yes", reason=reply.reason)


def _text(messages: Sequence[Message], answer: str, criterion: str) -> str:
    return marked_text(messages, {"answer": answer, "criterion": criterion}, QUESTION)
