"""A model that reads texts and replies in JSON by a schema.

In: an endpoint, instructions and texts. Out: replies; each is stored when it arrives. A reply that
does not fit the schema is a failure and never interpreted.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import openai
from pydantic import ValidationError

from compare.answers.bounded import gather_bounded
from compare.answers.cache import JsonCache
from compare.answers.client import Endpoint
from compare.judge_config import ModelJudgeConfig
from compare.judges.protocol import Usage
from potstill.progress import Progress, track
from potstill.schema import Message, Value
from potstill.thinking import answer_of

MILLION = 1e6
NO_VERDICT = "no verdict by the schema"
"""Why a reading failed although the model replied."""
FAILURE_CHARACTERS = 300
"""Most characters kept of an error."""
ReplyT = TypeVar("ReplyT", bound=Value)


class Reader(Generic[ReplyT]):
    """A model behind OpenAI's API that replies by a schema.

    Args:
        reply: The class of a reply.
        response_format: Its schema, as OpenAI's API takes it.
        cache: Where replies are stored, without failures.
    """

    def __init__(
        self,
        config: ModelJudgeConfig,
        endpoint: Endpoint,
        cache: JsonCache,
        max_concurrency: int,
        *,
        reply: type[ReplyT],
        response_format: dict[str, Any],
    ) -> None:
        self._config, self._endpoint, self._cache = config, endpoint, cache
        self._max_concurrency = max_concurrency
        self._reply, self._response_format = reply, response_format
        self.usage = Usage()
        """The cost of all readings so far."""

    def read(self, texts: Sequence[str], label: str) -> list[ReplyT | str]:
        """Return the reply to each text, or why there is none.

        Args:
            label: Name of the texts for the progress bar.
        """
        with track(f"{self._config.name} judges {label}", len(texts), "readings") as progress:
            return asyncio.run(self._read(texts, progress))

    async def _read(self, texts: Sequence[str], progress: Progress) -> list[ReplyT | str]:
        client = self._endpoint.open()

        async def work(text: str) -> ReplyT | str:
            return await self._read_one(client, text)

        try:
            return await gather_bounded(work, texts, self._max_concurrency, progress.advance)
        finally:
            await client.close()

    async def _read_one(self, client: openai.AsyncOpenAI, text: str) -> ReplyT | str:
        request = self._request(text)
        key = _key(self._endpoint.identity, request)
        stored = self._cache.get(key)
        if stored is None:
            try:
                stored = _plain(await client.chat.completions.create(**request))
            except openai.OpenAIError as error:
                return f"{type(error).__name__}: {error}"[:FAILURE_CHARACTERS]
        self._count(stored)
        try:
            reply = self._reply.model_validate_json(stored["content"])
        except ValidationError:
            return NO_VERDICT
        self._cache.put(key, stored)
        return reply

    def _request(self, text: str) -> dict[str, Any]:
        request: dict[str, Any] = {
            "model": self._endpoint.model,
            "messages": [
                {"role": "system", "content": self._config.rubric},
                {"role": "user", "content": text},
            ],
            "response_format": self._response_format,
            "extra_body": {self._endpoint.limit_name: self._config.max_tokens},
        }
        if self._config.temperature is not None:
            request["temperature"] = self._config.temperature
        return request

    def _count(self, stored: dict[str, Any]) -> None:
        prompt, completion = stored["prompt_tokens"], stored["completion_tokens"]
        cost = prompt * self._config.prompt_price + completion * self._config.completion_price
        self.usage = Usage(
            num_requests=self.usage.num_requests + 1,
            prompt_tokens=self.usage.prompt_tokens + prompt,
            completion_tokens=self.usage.completion_tokens + completion,
            cost=self.usage.cost + cost / MILLION,
        )


def schema_of_reply(name: str, key: str, values: Sequence[str]) -> dict[str, Any]:
    """Return the schema of a reply with a short reason and one of some values."""
    return {
        "type": "json_schema",
        "json_schema": {
            "name": name,
            "strict": True,
            "schema": {
                "type": "object",
                "properties": {
                    "reason": {"type": "string", "description": "One short sentence."},
                    key: {"type": "string", "enum": list(values)},
                },
                "required": ["reason", key],
                "additionalProperties": False,
            },
        },
    }


def marked_text(messages: Sequence[Message], blocks: dict[str, str], question: str) -> str:
    """Return a conversation, further texts by name, and a question about them as one text.

    The marks around them contain a hash of all texts, so that no answer can forge its own end.
    """
    turns = [f"{one.role}: {one.content}{one.tool_calls or ''}" for one in messages]
    mark = hashlib.sha256("\0".join([*turns, *blocks.values()]).encode()).hexdigest()[:8]
    named = {"conversation": "\n\n".join(turns)} | blocks
    texts = [f"<{name} {mark}>\n{text}\n</{name} {mark}>" for name, text in named.items()]
    return "\n\n".join([*texts, question])


def _plain(completion: Any) -> dict[str, Any]:  # noqa: ANN401  (whatever a server sent)
    """Return content and usage; a server may omit what OpenAI always sends."""
    choices = getattr(completion, "choices", None) or []
    usage = getattr(completion, "usage", None)
    return {
        "content": answer_of(
            (choices[0].message.content if choices and choices[0].message else "") or ""
        ),
        "prompt_tokens": getattr(usage, "prompt_tokens", None) or 0,
        "completion_tokens": getattr(usage, "completion_tokens", None) or 0,
    }


def _key(identity: str, request: dict[str, Any]) -> str:
    content = json.dumps([identity, request], sort_keys=True)
    return f"judgment-{hashlib.sha256(content.encode()).hexdigest()[:32]}"
