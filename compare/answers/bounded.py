"""Concurrent calls of a coroutine function, bounded in number.

In: a coroutine function and items. Out: its results, in the items' order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


async def gather_bounded(
    work: Callable[[ItemT], Awaitable[ResultT]],
    items: Sequence[ItemT],
    max_concurrency: int,
    on_done: Callable[[], None] = lambda: None,
) -> list[ResultT]:
    """Return the results of all items; the first error cancels the others and is raised."""
    semaphore = asyncio.Semaphore(max_concurrency)

    async def bounded(item: ItemT) -> ResultT:
        async with semaphore:
            result = await work(item)
            on_done()
            return result

    tasks = [asyncio.ensure_future(bounded(item)) for item in items]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
