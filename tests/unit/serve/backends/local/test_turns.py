"""Threads that keys share, of which none takes all."""

import asyncio
import threading

from serve.backends.local.turns import SharedThreads


def test_an_owner_takes_half_of_the_threads_and_keeps_them_until_its_work_is_done():
    async def use() -> None:
        threads, goes_on = SharedThreads(2, "test"), threading.Event()
        gone = asyncio.create_task(threads.run(goes_on.wait, "a"))
        await asyncio.sleep(0.05)
        gone.cancel()  # The client has disconnected, and its work goes on.
        waiting = [asyncio.create_task(threads.run(lambda: 1, "a")) for _ in range(3)]
        async with asyncio.timeout(5):
            assert await threads.run(lambda: 2, "b") == 2
        assert not any(one.done() for one in waiting)
        goes_on.set()
        async with asyncio.timeout(5):
            assert await asyncio.gather(*waiting) == [1, 1, 1]
        threads.close()

    asyncio.run(use())


def test_without_an_owner_all_threads_are_used():
    async def use() -> None:
        threads, both = SharedThreads(2, "test"), threading.Barrier(2)
        async with asyncio.timeout(5):
            await asyncio.gather(*(threads.run(both.wait, None) for _ in range(2)))
        threads.close()

    asyncio.run(use())
