"""Who is answered next, and how much of an engine one owner may have."""

import pytest

from serve.engine.request import EngineLimits, Request
from serve.engine.waiting import Waiting
from serve.errors import InvalidRequestError, QueueFullError


def queue(*, has_owners: bool = True) -> Waiting:
    limits = EngineLimits(
        context_tokens=64,
        max_parallel=8,
        max_batch_tokens=32,
        max_queue=12,
        has_owners=has_owners,
    )
    return Waiting(limits)


def of(owner: str, count: int = 1) -> list[Request]:
    return [Request((1,), owner=owner) for _ in range(count)]


def start_all(waiting: Waiting, active: list[Request]) -> list[Request]:
    while (request := waiting.next(active)) is not None:
        active.append(request)
    return active


def test_one_owner_fills_half_of_the_engine_and_leaves_slots_for_others():
    waiting = queue()
    with pytest.raises(InvalidRequestError, match="too many choices"):
        waiting.add(of("greedy", 11))
    waiting.add(of("greedy", 10))
    with pytest.raises(QueueFullError):
        waiting.add(of("greedy"))
    active = start_all(waiting, [])
    assert len(active) == 6
    waiting.add(of("modest", 2))
    assert [one.owner for one in start_all(waiting, active)[6:]] == ["modest"]
    waiting.add(of("third"))
    assert start_all(waiting, active)[-1].owner == "third"


def test_owners_take_turns():
    waiting = queue()
    waiting.add(of("first", 4))
    waiting.add(of("second", 4))
    owners = [one.owner for one in start_all(waiting, [])]
    assert owners == ["first", "second"] * 3


def test_a_single_owner_may_have_all():
    waiting = queue(has_owners=False)
    waiting.add(of("", 20))
    assert len(start_all(waiting, [])) == 8
    with pytest.raises(QueueFullError):
        waiting.add(of(""))


def test_what_ends_makes_room():
    waiting = queue()
    requests = of("greedy", 10)
    waiting.add(requests)
    started = waiting.next([])
    assert started is requests[0]
    waiting.end(started)
    waiting.drop(requests[5:])
    waiting.add(of("greedy", 6))
    assert len(waiting.clear()) == len(waiting) + 10
    waiting.add(of("greedy", 10))
