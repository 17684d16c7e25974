"""Fixtures of the train stage's unit tests: stored conversations whose signal encodes its
position."""

import pytest

from potstill.distributions import MAX_LEVEL


@pytest.fixture
def conversation(make_conversation):
    """Return a function that makes conversations with stored ids 100 t + k."""

    def make(token_ids, turns, counts, **fields):
        entries = [
            [(100 * t + k, ((140 - 20 * t - 5 * k) / MAX_LEVEL) ** 2) for k in range(count)]
            for t, count in enumerate(counts)
        ]
        return make_conversation(token_ids, turns, entries=entries, **fields)

    return make


@pytest.fixture
def stored(tmp_path, conversation, write_conversations):
    """A train split of three: short, long, and one of two answers with a user's turn between."""
    write_conversations(
        tmp_path,
        [
            conversation([1, 2, 3, 4], [(2, 2)], [2, 1], name="short"),
            conversation([5, 6, 7, 8], [(1, 3)], [1, 3, 2], name="long"),
            conversation([1, 11, 12, 2, 3, 13, 4], [(1, 2), (5, 1)], [1, 2, 3], name="two answers"),
        ],
    )
    return tmp_path
