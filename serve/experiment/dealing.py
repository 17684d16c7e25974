"""Pairs of models dealt blind: only votes on their answers decide anything.

The server draws the order and hides the names until the vote: what shows one before ends the deal.
A client may still recognize a model by what it writes; so each pair gets one vote, by the key it
was dealt to, and these are counted. Answers under other sampling settings than the server's own
say nothing about what it serves: votes on them count for nothing.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

from serve.backends.protocol import Caller, ChatBackend, ChatReply
from serve.errors import (
    InvalidRequestError,
    ModelNotFoundError,
    QueueFullError,
    RateLimitError,
    RetryLaterError,
)
from serve.keys import rate_limited
from serve.rate_limits import Bucket
from serve.wire.chat import ChatCompletion, ChatCompletionChunk, ChatRequest
from serve.wire.chunks import REASONING, thinking_in
from serve.wire.models import ModelCard, model_card
from serve.wire.shared import PERSONAL, CompletionUsage, JsonObject

Shown = TypeVar("Shown", ChatCompletion, ChatCompletionChunk)

MAX_DEALS = 1000
"""Pairs of one key that are remembered; older ones can no longer be voted on."""

NO_SETTINGS = frozenset({"model", "messages", "stream", "stream_options", *PERSONAL})
"""What a request may have and still be one under the server's own settings."""

VOTES_PER_MINUTE = 12
"""Of one key; who reads both answers needs longer."""


@dataclass
class Deal:
    """Two models under other names, each of which answers once."""

    models: Sequence[ChatBackend]
    voter: str
    """Name of the key that it was dealt to; "" where no key is needed."""
    asked: set[str] = field(default_factory=set)
    """The names that are used up: nobody may ask until an answer suits them."""
    answers: dict[str, str] = field(default_factory=dict)
    """The answers' ids, with the names that they were asked under."""
    changed: set[str] = field(default_factory=set)
    """Settings that a request had."""
    created: int = field(default_factory=lambda: int(time.time()))


class Dealer:
    """The pairs that were dealt and not voted on."""

    def __init__(self) -> None:
        self._deals: defaultdict[str, OrderedDict[str, Deal]] = defaultdict(OrderedDict)
        """By voter: nobody's deals push out those of others."""
        self._votes: dict[str, Bucket] = defaultdict(lambda: Bucket(VOTES_PER_MINUTE))

    def deal(self, models: Sequence[ChatBackend], voter: str) -> list[str]:
        """Return names for two models, in random order.

        Raises:
            InvalidRequestError: A model is a dealt name: a vote on one deal would show what the
                other one hides.
        """
        if any(isinstance(one, DealtModel) for one in models):
            raise InvalidRequestError("dealt names are not dealt again", where="models")
        shuffled = secrets.SystemRandom().sample(models, len(models))
        token = secrets.token_hex(8)
        own = self._deals[voter]
        own[token] = Deal(shuffled, voter)
        if len(own) > MAX_DEALS:
            own.popitem(last=False)
        return [f"blind-{token}-{side}" for side in range(len(shuffled))]

    def find(self, name: str) -> DealtModel | None:
        """Return the model behind a dealt name; None if there is none."""
        token, _, side = name.removeprefix("blind-").partition("-")
        deal = next((deals[token] for deals in self._deals.values() if token in deals), None)
        if deal is None or side not in ("0", "1"):
            return None
        return DealtModel(name, deal, deal.models[int(side)])

    def end(self, answer_ids: Collection[str]) -> None:
        """End the deals of answers whose models are about to be shown."""
        shown = {*answer_ids}
        for deals in self._deals.values():
            for token in [t for t, deal in deals.items() if shown & deal.answers.keys()]:
                del deals[token]

    def take(self, answer_ids: Sequence[str], voter: str) -> list[str]:
        """Use up the pair of two answers for a vote.

        Returns:
            The settings under which they were asked for; a vote decides something without any.

        Raises:
            InvalidRequestError: They were not dealt to this voter, or are voted on already.
            RateLimitError: The voter votes too fast.
        """
        wanted = set(answer_ids)
        own = self._deals[voter]
        token = next((t for t, deal in own.items() if deal.answers.keys() == wanted), None)
        if token is None:
            raise InvalidRequestError(
                "these are not two answers that wait for a blind vote",
                where="response_ids",
                hint="POST /v1/deals gives two names for models; each pair gets one vote",
            )
        self.count_vote(voter)
        return sorted(own.pop(token).changed)

    def count_vote(self, voter: str) -> None:
        """Count a vote, blind or not: each is stored.

        Raises:
            RateLimitError: The voter votes too fast.
        """
        if wait := self._votes[voter].seconds_until(1):
            raise rate_limited("votes come too fast", wait)
        self._votes[voter].take(1)


class DealtModel:
    """A model under a name that hides it, for one answer."""

    def __init__(self, name: str, deal: Deal, model: ChatBackend) -> None:
        self._name, self._deal = name, deal
        self.hidden = model

    @property
    def card(self) -> ModelCard:
        """The name, and nothing about the model."""
        return model_card(self._name, self._deal.created)

    @property
    def is_ready(self) -> bool:
        """Whether requests are accepted."""
        return self.hidden.is_ready

    async def start(self) -> None:
        """Do nothing: the model is started under its own name."""

    async def stop(self) -> None:
        """Do nothing: the model is stopped under its own name."""

    async def chat(self, request: ChatRequest, caller: Caller) -> DealtReply:
        """Accept a request of the voter; raises as the model does."""
        if caller.owner != self._deal.voter:
            raise ModelNotFoundError("the model does not exist", where="model")
        if self._name in self._deal.asked:
            raise InvalidRequestError("a dealt name answers once", where="model")
        self._deal.asked.add(self._name)
        given = {one for one in request.model_fields_set if getattr(request, one) is not None}
        self._deal.changed |= given - NO_SETTINGS
        request = request.model_copy(update={"model": self.hidden.card["id"]})
        try:
            reply = await self.hidden.chat(request, caller)
        except (RetryLaterError, asyncio.CancelledError) as error:
            self._deal.asked.discard(self._name)
            if isinstance(error, RetryLaterError) and not isinstance(error, RateLimitError):
                # Each kind of model says it in other words.
                raise QueueFullError("the model is busy", hint="try again in a moment") from error
            raise
        # Other errors show which model it is, such as by its context: the name is used up.
        return DealtReply(self._name, self._deal, reply)


@dataclass
class DealtReply:
    """A reply that does not name its model."""

    name: str
    deal: Deal
    reply: ChatReply

    async def complete(self) -> ChatCompletion:
        """Wait for the whole answer; raises as the model's reply does."""
        return self._shown(await self.reply.complete())

    async def chunks(self) -> AsyncIterator[ChatCompletionChunk]:
        """Yield the answer as it is generated; raises as the model's reply does."""
        async for chunk in self.reply.chunks():
            yield self._shown(chunk)

    def cancel(self) -> None:
        """Stop what still works for this answer."""
        self.reply.cancel()

    def _shown(self, answer: Shown) -> Shown:
        self.deal.answers[answer["id"]] = self.name
        kept: JsonObject = {
            "id": answer["id"],
            "object": answer["object"],
            "created": answer["created"],
            "model": self.name,
            "system_fingerprint": "",
        }
        kept["choices"] = [_plain(dict(one)) for one in answer["choices"]]
        if usage := answer.get("usage"):
            kept["usage"] = _hiding(usage)
        return cast(Shown, kept)


def _plain(choice: JsonObject) -> JsonObject:
    """Return a choice without what only some kinds of models send."""
    name = "message" if "message" in choice else "delta"
    said = choice[name]
    plain = {key: said[key] for key in ("role", "content", "tool_calls") if said.get(key)}
    if thinking := thinking_in(said):
        plain |= dict.fromkeys(REASONING, thinking)
    if name == "message":
        plain = {"role": "assistant", "content": "", "refusal": None} | plain
    return {
        "index": choice["index"],
        name: plain,
        "logprobs": choice.get("logprobs"),
        "finish_reason": choice.get("finish_reason"),
    }


def _hiding(usage: CompletionUsage) -> CompletionUsage:
    """Return token counts without the prompt's, which has each model's own instructions."""
    num_tokens = usage["completion_tokens"]
    return {"prompt_tokens": 0, "completion_tokens": num_tokens, "total_tokens": num_tokens}
