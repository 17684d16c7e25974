"""Stores the answers of plain models, so that people can rate and compare them."""

from __future__ import annotations

import time

from serve.backends.protocol import Exchange
from serve.experiment.backend import Experiment
from serve.storage.records import AnswerRecord, said_in
from serve.storage.storage import Storage


async def store_answer(storage: Storage, exchange: Exchange) -> None:
    """Store a completed chat; experiments store their own."""
    if isinstance(exchange.backend, Experiment):
        return
    messages = exchange.request.messages
    conversation, prompt = storage.prompt_hashes(exchange.caller.owner, messages)
    await storage.record(
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
            owner=exchange.caller.owner,
        )
    )
