"""What a key pays for work that nobody waits for any more."""

import asyncio

import pytest

from serve.backends.protocol import Caller
from serve.keys import Key, KeyEntry
from serve.wire.embeddings import EmbeddingRequest
from tests.fixtures.waiting import PATIENCE_SECONDS


def test_embeddings_that_are_left_are_paid(make_app):
    key = Key("poor", KeyEntry(sha256="0" * 64, tokens_per_day=1_000_000))
    backend = make_app().state.serving.backends["a"]
    request = EmbeddingRequest(input=["word " * 20] * 100)

    async def leave() -> None:
        await backend.start()
        asking = asyncio.create_task(backend.embed(request, Caller("poor", reserve=key.reserve)))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not backend.local.engine.engine._embedder.has_work:
                await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await backend.stop()

    asyncio.run(leave())
    assert key.daily_tokens.allowance.remaining < 1_000_000 - 100 * 20
