import asyncio

import pytest

from compare.answers.bounded import gather_bounded


def test_results_are_in_order_and_never_too_many_at_once():
    under_way, most, done = 0, 0, []

    async def work(item):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.001 * (5 - item))
        under_way -= 1
        return item * item

    found = asyncio.run(gather_bounded(work, range(5), 2, lambda: done.append(1)))
    assert found == [0, 1, 4, 9, 16]
    assert (most, len(done)) == (2, 5)


def test_first_error_cancels_the_others():
    begun, ended = [], []

    async def work(item):
        begun.append(item)
        if item == 1:
            raise ValueError("no")
        await asyncio.sleep(5)
        ended.append(item)

    with pytest.raises(ValueError, match="no"):
        asyncio.run(gather_bounded(work, range(4), 2))
    assert 3 not in begun
    assert ended == []
