import asyncio

import pytest

from generate.teachers.endpoint.loop_thread import LoopThread


@pytest.fixture
def loop():
    loop = LoopThread("test")
    yield loop
    if not loop.closed:
        loop.close()


def options(**more) -> dict:
    return {"max_in_flight": 3, "admit": lambda _: True, "refused": RuntimeError, **more}


class Bench:
    """Work that waits for a signal to end."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.cancelled: list[int] = []
        self.ends: dict[int, asyncio.Event] = {}

    async def work(self, number: int) -> int:
        self.begun.append(number)
        self.ends[number] = asyncio.Event()
        try:
            if number:
                await self.ends[number].wait()
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise
        return number


async def double(number: int) -> int:
    return 2 * number


def test_all_requests_are_worked_on(loop, taking):
    assert sorted(loop.results(taking([1, 2, 3, 4, 5]), double, **options())) == [2, 4, 6, 8, 10]
    assert list(loop.results(taking([]), double, **options())) == []


def test_results_come_as_they_finish_and_make_room(loop, taking):
    rooms, requests, bench = [], [1, 0, 2, 0, 0], Bench()
    take = taking(requests)

    def next_requests(room: int) -> list[int]:
        rooms.append(room)
        return take(room)

    results = loop.results(next_requests, bench.work, **options())
    assert [next(results) for _ in range(3)] == [0, 0, 0]
    assert bench.begun == [1, 0, 2, 0, 0]
    assert rooms[0] == 3
    assert set(rooms[1:]) == {1}
    loop.run(set_event(bench.ends[2]))
    assert next(results) == 2
    results.close()
    assert bench.cancelled == [1]


async def set_event(event: asyncio.Event) -> None:
    event.set()


def test_a_source_may_give_none_now_and_some_after_a_result(loop):
    gives = iter([[1, 2], [], [3], []])
    assert sorted(loop.results(lambda _: next(gives), double, **options())) == [2, 4, 6]


def test_what_is_not_admitted_waits_for_a_result(loop, taking):
    free, admitted = [2], []

    def admit(number: int) -> bool:
        if not free[0]:
            return False
        free[0] -= 1
        admitted.append(number)
        return True

    seen = []
    for result in loop.results(taking([1, 2, 3, 4]), double, **options(admit=admit)):
        seen.append(result)
        free[0] += 1
    assert admitted == [1, 2, 3, 4]
    assert sorted(seen) == [2, 4, 6, 8]


def test_refused_is_raised_when_nothing_is_left_to_wait_for(loop, taking):
    results = loop.results(taking([1, 2]), double, **options(admit=lambda number: number == 1))
    assert next(results) == 2
    with pytest.raises(RuntimeError):
        next(results)


def test_an_error_cancels_the_others(loop, taking):
    bench = Bench()

    async def work(number: int) -> int:
        if number == 3:
            raise ZeroDivisionError
        return await bench.work(number)

    with pytest.raises(ZeroDivisionError):
        list(loop.results(taking([1, 2, 3]), work, **options()))
    assert sorted(bench.cancelled) == [1, 2]
    assert list(loop.results(taking([4]), double, **options())) == [8]


def test_closing_cancels_what_runs_and_ends_the_thread(taking):
    loop, bench = LoopThread("test"), Bench()
    results = loop.results(taking([0, 1]), bench.work, **options())
    assert next(results) == 0
    loop.close()
    assert bench.cancelled == [1]
    assert loop.closed
    results.close()
