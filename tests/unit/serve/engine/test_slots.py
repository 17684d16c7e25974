"""The prefix cache, with a context that really holds the tokens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.engine.context import Chunk
from serve.engine.slots import Slots, common_length


@pytest.fixture
def context(make_context):
    return make_context(num_sequences=5, context_tokens=256, max_batch_tokens=64)


@pytest.fixture
def slots(context) -> Slots:
    return Slots(context, 5, 256)


def read(context, slot, token_ids) -> np.ndarray:
    """Compute what of the tokens the slot lacks; return the logits after the last one."""
    start = len(slot.token_ids)
    chunk = Chunk(slot.sequence_id, start, token_ids[start:], 1)
    slot.token_ids = list(token_ids)
    return context.decode([chunk])[0][0].copy()


def prompts(count: int) -> list[list[int]]:
    return [list(range(100 * n, 100 * n + 20)) for n in range(1, count + 1)]


def taken_ids(slots) -> list[int]:
    return sorted(slot.sequence_id for slot in slots._slots if not slot.is_free)


def test_gaps_are_closed_without_losing_memory(context, slots):
    texts = prompts(4)
    taken = [slots.take(text) for text in texts]
    before = [read(context, slot, text) for slot, text in zip(taken, texts, strict=True)]
    slots.release(taken[1])
    slots.release(taken[2])
    slots.close_gaps()
    ids = taken_ids(slots)
    assert ids[-1] - ids[0] == len(ids) - 1
    for number in (0, 3):
        slot = taken[number]
        assert slot.token_ids == texts[number]
        slots.cut(slot, 19)
        assert (read(context, slot, texts[number]) == before[number]).all()
    # What the finished ones left is still there for the next turn.
    for number in (1, 2):
        assert slots.num_computed([*texts[number], 1]) == 20
        slot = slots.take([*texts[number], 1])
        slots.cut(slot, 19)
        assert (read(context, slot, texts[number]) == before[number]).all()
        slots.release(slot)


def test_the_oldest_is_dropped_when_a_slot_is_needed(context, slots):
    texts = prompts(5)
    for text in texts:
        slot = slots.take(text)
        read(context, slot, text)
        slots.release(slot)
    slots.take([7, 8, 9])
    assert slots.num_computed([*texts[0], 1]) == 0
    assert all(slots.num_computed([*text, 1]) == 20 for text in texts[1:])


def test_nothing_is_copied_where_the_oldest_slot_has_the_same_beginning(
    context, slots, monkeypatch
):
    """As the slots of a chat's earlier users have the same system prompt."""
    common = list(range(100, 120))
    taken = [slots.take([*common, number]) for number in range(5)]
    for number, slot in enumerate(taken):
        read(context, slot, [*common, *range(number, number + 30)])
        slots.release(slot)
    monkeypatch.setattr(context, "copy", None)
    slot = slots.take([*common, 99])
    assert slot is taken[0]
    assert slot.token_ids == common


def test_an_owner_reuses_its_own_memory_and_the_public_part_of_others(context, slots):
    text = prompts(1)[0]
    slot = slots.take(text, "alice")
    read(context, slot, text)
    assert slots.num_computed([*text, 1], "alice") == 20
    assert slots.num_computed([*text, 1], "bob") == 0
    assert slots.num_computed([*text, 1], "bob", num_public=7) == 7
    # Also while it is being written, after it moved, and when another took over its beginning.
    other = slots.take([*text, 1], "bob", num_public=7)
    assert (other.token_ids, other.owner) == (text[:7], "bob")
    slots.release(slot)
    slots.close_gaps()
    assert slots.num_computed([*text, 1], "bob", num_public=7) == 7
    assert slots.num_computed([*text, 1], "alice") == 20


def test_a_prefix_too_short_for_a_copy_is_computed(context, slots):
    assert slots.min_copied_tokens == 1
    wide = Slots(context, 5, 8192)
    first = wide.take(prompts(1)[0])
    read(context, first, prompts(1)[0])
    second = wide.take([*prompts(1)[0][:20], 1])
    assert second.token_ids == []


@given(st.lists(st.integers(0, 2), max_size=30), st.lists(st.integers(0, 2), max_size=30))
def test_common_length_is_the_count_of_equal_pairs(left, right):
    expected = 0
    while expected < min(len(left), len(right)) and left[expected] == right[expected]:
        expected += 1
    assert common_length(left, right) == expected
