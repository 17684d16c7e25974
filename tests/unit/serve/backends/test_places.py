"""Who is sent on to another server next, and how much of it one key may have."""

import asyncio

import pytest

from serve.backends.places import Place, Places, Room
from serve.errors import InvalidRequestError, QueueFullError


async def ask(places: Places, owner: str, num_choices: int = 1) -> "asyncio.Task[Place]":
    """Return a request that has begun or waits."""
    task = asyncio.create_task(places.take(owner, num_choices))
    for _ in range(3):
        await asyncio.sleep(0)
    return task


def begun(*tasks: "asyncio.Task[Place]") -> list[bool]:
    return [task.done() for task in tasks]


def test_nothing_overtakes_a_request_of_several_choices():
    async def scenario() -> None:
        places = Places(Room(max_parallel=4, max_queue=8))
        first, large, small = [await ask(places, "", count) for count in (2, 3, 1)]
        assert begun(first, large, small) == [True, False, False]
        places.leave(first.result())
        await asyncio.gather(large, small)

    asyncio.run(scenario())


def test_the_last_places_are_for_whoever_has_none():
    async def scenario() -> None:
        places = Places(Room(max_parallel=4, max_queue=8, has_owners=True))
        greedy = [await ask(places, "greedy") for _ in range(6)]
        modest = await ask(places, "modest")
        assert begun(*greedy, modest) == [True] * 3 + [False] * 3 + [True]
        with pytest.raises(QueueFullError):
            await places.take("greedy")
        with pytest.raises(InvalidRequestError, match="too many choices"):
            await places.take("third", 4)
        places.leave(modest.result())
        places.leave(modest.result())
        assert begun(await ask(places, "third")) == [True]
        for task in greedy:
            task.cancel()

    asyncio.run(scenario())


def test_who_gives_up_leaves_no_trace():
    async def scenario() -> None:
        places = Places(Room(max_parallel=1, max_queue=2))
        first = await ask(places, "")
        for _ in range(5):
            waiting = [await ask(places, "") for _ in range(2)]
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        last = await ask(places, "")
        places.leave(first.result())
        places.leave(await last)
        await places.take("")

    asyncio.run(scenario())
