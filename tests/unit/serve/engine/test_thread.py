"""An engine in its thread: what happens when it fails."""

import asyncio

import pytest

from potstill.errors import BackendUnavailableError
from serve.engine.request import EngineLimits, Request
from serve.engine.thread import EngineThread
from serve.failures import MAX_FAILURES

LIMITS = EngineLimits(context_tokens=64, max_parallel=2, max_batch_tokens=16, max_queue=4)


async def answered(thread: EngineThread) -> int:
    generation = thread.submit([Request((5, 6), max_new_tokens=3)])
    return sum([len(output.token_ids) async for _, output in generation])


def test_an_engine_that_fails_ends_its_requests_and_starts_again_but_not_for_ever(tiny_model):
    def broken() -> None:
        raise RuntimeError("a bug")

    async def scenario() -> None:
        thread = EngineThread(tiny_model, LIMITS, threads=1)
        thread.start()
        for _ in range(MAX_FAILURES):
            async with asyncio.timeout(30):
                while not thread.is_ready:
                    await asyncio.sleep(0.01)
                assert await answered(thread) == 3
                failing = thread.engine
                failing._schedule = broken
                with pytest.raises(BackendUnavailableError):
                    await answered(thread)
                while thread.engine is failing and not thread.has_failed:
                    await asyncio.sleep(0.01)
        assert thread.has_failed
        assert not thread.is_ready
        with pytest.raises(BackendUnavailableError, match="not running"):
            await answered(thread)
        await thread.stop()

    asyncio.run(scenario())
