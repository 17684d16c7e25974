"""A model as judge, which reads each pair in both orders and answers in JSON.

In: an endpoint, a rubric, pairs. Out: judgments; each reading is stored when it arrives. A reply
that does not fit the schema is counted as a failure and never interpreted.

Source: swapping against position bias as in Zheng et al. 2023 (arXiv 2306.05685), section 3.4.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from typing import Any, Literal

import openai
from pydantic import ValidationError

from compare.answers.bounded import gather_bounded
from compare.answers.cache import JsonCache
from compare.answers.client import Endpoint
from compare.judge_config import LlmJudgeConfig
from compare.judges.protocol import Claim, Judgment, Pair, Place, Side, Usage, Vote
from potstill.progress import Progress, track
from potstill.schema import Message, Value

PLACES: tuple[Place, ...] = ("first", "second")
VALUES: dict[Side, float] = {"student": 1.0, "tie": 0.5, "teacher": 0.0}
MILLION = 1e6
NO_VERDICT = "no verdict by the schema"
"""Why a reading failed although the model replied."""
FAILURE_CHARACTERS = 300
"""Most characters kept of an error."""


class Reply(Value):
    """The model's reply."""

    reason: str
    winner: Literal["A", "B", "tie"]


RESPONSE_FORMAT: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {
        "name": "verdict",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {
                "reason": {"type": "string", "description": "One short sentence."},
                "winner": {"type": "string", "enum": ["A", "B", "tie"]},
            },
            "required": ["reason", "winner"],
            "additionalProperties": False,
        },
    },
}


class LlmJudge:
    """A model behind OpenAI's API that reads each pair twice.

    Args:
        cache: Where readings are stored, without failures.
    """

    kind = "llm"
    measures = False
    needs_assay = True
    blind_to: frozenset[str] = frozenset()
    claim: Claim = "quality"

    def __init__(
        self, config: LlmJudgeConfig, endpoint: Endpoint, cache: JsonCache, max_concurrency: int
    ) -> None:
        self.name = config.name
        self.model: str | None = endpoint.model
        self._config, self._endpoint, self._cache = config, endpoint, cache
        self._max_concurrency = max_concurrency
        self._usage = Usage()

    def usage(self) -> Usage:
        """Return the cost of all readings so far."""
        return self._usage

    def judge(self, pairs: Sequence[Pair], label: str) -> list[Judgment]:
        """Read each pair in both orders."""
        with track(f"{self.name} judges {label}", 2 * len(pairs), "readings") as progress:
            votes = asyncio.run(self._read(pairs, progress))
        return [
            combine(votes[index : index + 2], self._config.disagreement)
            for index in range(0, len(votes), 2)
        ]

    async def _read(self, pairs: Sequence[Pair], progress: Progress) -> list[Vote]:
        client = self._endpoint.open()

        async def work(reading: tuple[Pair, Place]) -> Vote:
            return await self._vote(client, *reading)

        readings = [(pair, place) for pair in pairs for place in PLACES]
        try:
            return await gather_bounded(work, readings, self._max_concurrency, progress.advance)
        finally:
            await client.close()

    async def _vote(self, client: openai.AsyncOpenAI, pair: Pair, place: Place) -> Vote:
        request = self._request(pair, place)
        key = _key(self._endpoint.identity, request)
        stored = self._cache.get(key)
        if stored is None:
            try:
                stored = _plain(await client.chat.completions.create(**request))
            except openai.OpenAIError as error:
                text = f"{type(error).__name__}: {error}"[:FAILURE_CHARACTERS]
                return Vote(student_place=place, winner=None, reason=text)
        self._count(stored)
        try:
            reply = Reply.model_validate_json(stored["content"])
        except ValidationError:
            return Vote(student_place=place, winner=None, reason=NO_VERDICT)
        self._cache.put(key, stored)
        return Vote(student_place=place, winner=_side(reply.winner, place), reason=reply.reason)

    def _request(self, pair: Pair, place: Place) -> dict[str, Any]:
        answers = (pair.student, pair.teacher)
        first, second = answers if place == "first" else answers[::-1]
        request: dict[str, Any] = {
            "model": self._endpoint.model,
            "messages": [
                {"role": "system", "content": self._config.rubric},
                {"role": "user", "content": question_text(pair.question.messages, first, second)},
            ],
            "response_format": RESPONSE_FORMAT,
            "extra_body": {self._endpoint.limit_name: self._config.max_tokens},
        }
        if self._config.temperature is not None:
            request["temperature"] = self._config.temperature
        return request

    def _count(self, stored: dict[str, Any]) -> None:
        prompt, completion = stored["prompt_tokens"], stored["completion_tokens"]
        cost = prompt * self._config.prompt_price + completion * self._config.completion_price
        self._usage = Usage(
            num_requests=self._usage.num_requests + 1,
            prompt_tokens=self._usage.prompt_tokens + prompt,
            completion_tokens=self._usage.completion_tokens + completion,
            cost=self._usage.cost + cost / MILLION,
        )


def question_text(messages: Sequence[Message], first: str, second: str) -> str:
    """Return a conversation and two answers as a judge's prompt.

    The marks around them contain a hash of all texts, so that no answer can forge its own end.
    """
    parts = [f"{one.role}: {one.content}{one.tool_calls or ''}" for one in messages]
    mark = hashlib.sha256("\0".join([*parts, first, second]).encode()).hexdigest()[:8]
    blocks = [("conversation", "\n\n".join(parts)), ("answer A", first), ("answer B", second)]
    texts = [f"<{name} {mark}>\n{text}\n</{name} {mark}>" for name, text in blocks]
    question = 'Which answer is better? Give one short reason, then "A", "B" or "tie" as JSON.'
    return "\n\n".join([*texts, question])


def combine(votes: Sequence[Vote], disagreement: Literal["tie", "half"]) -> Judgment:
    """Return the judgment of both orders' votes; without a score if one failed."""
    values = [VALUES[vote.winner] for vote in votes if vote.winner is not None]
    if len(values) < len(votes):
        failure = next(vote.reason for vote in votes if vote.winner is None)
        return Judgment(score=None, votes=tuple(votes), failure=failure)
    agree = len(set(values)) == 1
    score = values[0] if agree else 0.5 if disagreement == "tie" else sum(values) / len(values)
    return Judgment(score=score, votes=tuple(votes))


def _plain(completion: Any) -> dict[str, Any]:  # noqa: ANN401  (whatever a server sent)
    """Return content and usage; a server may omit what OpenAI always sends."""
    choices = getattr(completion, "choices", None) or []
    usage = getattr(completion, "usage", None)
    return {
        "content": (choices[0].message.content if choices and choices[0].message else "") or "",
        "prompt_tokens": getattr(usage, "prompt_tokens", None) or 0,
        "completion_tokens": getattr(usage, "completion_tokens", None) or 0,
    }


def _side(winner: Literal["A", "B", "tie"], student_place: Place) -> Side:
    if winner == "tie":
        return "tie"
    return "student" if (winner == "A") == (student_place == "first") else "teacher"


def _key(identity: str, request: dict[str, Any]) -> str:
    content = json.dumps([identity, request], sort_keys=True)
    return f"judgment-{hashlib.sha256(content.encode()).hexdigest()[:32]}"
