import pytest
from hypothesis import given
from hypothesis import strategies as st

from generate.curation.repetition import MIN_TAIL_TOKENS, NGRAM_TOKENS, ends_in_loop, repeated_share


def share_by_marking(ids: list[int]) -> float:
    """Mark the tokens of every run of eight that some earlier run equals."""
    runs = [
        tuple(ids[start : start + NGRAM_TOKENS]) for start in range(len(ids) - NGRAM_TOKENS + 1)
    ]
    marked = {
        start + offset
        for start, run in enumerate(runs)
        if run in runs[:start]
        for offset in range(NGRAM_TOKENS)
    }
    return len(marked) / max(1, len(ids))


@given(st.lists(st.integers(0, 2), max_size=60))
def test_the_repeated_share_is_that_of_marked_tokens(ids):
    assert repeated_share(ids) == pytest.approx(share_by_marking(ids))


@given(st.integers(0, 30), st.integers(1, 12), st.integers(4, 20), st.integers(0, 11))
def test_rounds_at_the_end_are_a_loop_once_they_are_long_enough(before, period, rounds, rest):
    piece = list(range(100, 100 + period))
    ids = list(range(before)) + piece * rounds + piece[: rest % period]
    looped = len(ids) - before

    assert ends_in_loop(ids) == (looped >= max(4 * period, MIN_TAIL_TOKENS))


def test_an_end_that_moves_on_is_no_loop():
    assert ends_in_loop([1, 2, 3] * 30)
    assert not ends_in_loop([1, 2, 3] * 30 + [4])
    assert not ends_in_loop(list(range(500)))
    assert not ends_in_loop([])
