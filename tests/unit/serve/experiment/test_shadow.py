"""One key's requests do not keep those of others from the shadow."""

import pytest

from serve.experiment.config import ShadowConfig
from serve.experiment.shadow import MAX_WAITING_BYTES, Shadow


async def never(_request: str) -> None:
    raise AssertionError


@pytest.fixture
def shadow() -> Shadow[str]:
    return Shadow(ShadowConfig(queue=6), never)


def drained(shadow: Shadow[str]) -> list[str]:
    return [shadow.next() for _ in range(shadow.num_waiting)]


def test_keys_take_turns_in_the_shadow(shadow):
    for number in range(20):
        shadow.offer(f"greedy {number}", owner="greedy")
    shadow.offer("modest", owner="modest")
    shadow.offer("third", owner="third")
    assert (shadow.num_waiting, shadow.num_dropped) == (6, 16)
    assert drained(shadow) == ["greedy 0", "modest", "third", "greedy 1", "greedy 2", "greedy 3"]
    assert shadow.next() is None


def test_large_requests_of_one_key_leave_room_for_others(shadow):
    for number in range(4):
        shadow.offer(f"greedy {number}", MAX_WAITING_BYTES // 2, "greedy")
    shadow.offer("modest", MAX_WAITING_BYTES // 4, "modest")
    assert drained(shadow) == ["greedy 0", "modest"]


def test_a_key_alone_may_fill_the_queue_and_nothing_is_larger(shadow):
    for number in range(20):
        shadow.offer(f"only {number}")
    shadow.offer("too large", MAX_WAITING_BYTES + 1)
    assert drained(shadow) == [f"only {number}" for number in range(6)]
