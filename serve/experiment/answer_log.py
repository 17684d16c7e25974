"""Stores the answers of plain models, so that people can rate and compare them."""

from __future__ import annotations

import time

from serve.backends.protocol import Exchange
from serve.experiment.backend import Experiment
from serve.storage.records import AnswerRecord, said_in
from serve.storage.storage import Storage


class AnswerLog:
    """Stores completed chats; an observer of the application."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def __call__(self, exchange: Exchange) -> None:
        """Store an answer; experiments store their own."""
        if isinstance(exchange.backend, Experiment):
            return
        messages = exchange.request.messages
        conversation, prompt = self._storage.prompt_hashes(exchange.caller.owner, messages)
        await self._storage.record(
            AnswerRecord(
                id=exchange.completion["id"],
                model=exchange.backend.card["id"],
                created=time.time() - exchange.seconds,
                seconds=exchange.seconds,
                outcome="whole",
                messages=messages,
                conversation=conversation,
                prompt=prompt,
                said=said_in(exchange.completion),
            )
        )
