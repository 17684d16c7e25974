import random
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from generate.sources.mix import KnownPrompts, Pool, pool, shares
from generate.sources.raw_prompt import RawPrompt
from potstill.schema import Message


def numbered(count: int, source: str, start: int = 0) -> list[RawPrompt]:
    return [
        RawPrompt((Message(role="user", content=f"What is number {number}?"),), source)
        for number in range(start, start + count)
    ]


def by_id(prompts) -> list[RawPrompt]:
    return sorted(prompts, key=lambda one: one.prompt_id)


@given(st.integers(0, 40), st.integers(1, 30), st.randoms())
def test_the_same_prompts_are_kept_whatever_their_order(count, most, shuffler: random.Random):
    prompts = numbered(count, "a")
    found = pool(iter(prompts), most, KnownPrompts())
    assert found == Pool(by_id(prompts)[:most], num_read=count, num_distinct=count)
    shuffler.shuffle(prompts)
    assert pool(prompts, most, KnownPrompts()) == found


def test_what_is_kept_comes_from_everywhere_in_the_file():
    prompts = numbered(1000, "a")
    kept = pool(prompts, 100, KnownPrompts()).prompts
    places = sorted(prompts.index(prompt) for prompt in kept)
    assert 400 < sum(places) / 100 < 600
    assert places != list(range(100))


def test_a_prompt_of_two_sources_belongs_to_the_first():
    known = KnownPrompts()
    ours, theirs = numbered(10, "a"), numbered(10, "b", 5)
    louder = [
        RawPrompt((Message(role="user", content=prompt.messages[0].content.upper()),), "b")
        for prompt in ours
    ]
    assert pool(ours + ours, 100, known) == Pool(by_id(ours), num_read=20, num_distinct=10)
    own = by_id(theirs[5:])
    assert pool(theirs + louder, 100, known) == Pool(own, num_read=20, num_distinct=5)


def test_memory_holds_what_may_be_wanted_only():
    tracemalloc.start()
    found = pool((longer(number) for number in range(500)), 10, KnownPrompts())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.num_distinct == 500
    assert peak < 3e5  # the prompts are 1 MB


def longer(number: int) -> RawPrompt:
    return RawPrompt((Message(role="user", content=f"{number} " + "x" * 2000),), "a")


WEIGHTS = st.lists(st.floats(0.01, 100.0), min_size=1, max_size=5)


@given(weights=WEIGHTS, num_prompts=st.integers(0, 300), data=st.data())
def test_shares_add_up_and_none_has_more_than_there_is(weights, num_prompts, data):
    limits = data.draw(
        st.lists(st.none() | st.integers(0, 200), min_size=len(weights), max_size=len(weights))
    )
    counts = shares(weights, num_prompts, limits)
    total = sum(num_prompts if limit is None else limit for limit in limits)
    assert sum(counts) == min(num_prompts, total)
    assert all(limit is None or count <= limit for count, limit in zip(counts, limits, strict=True))


@given(weights=WEIGHTS, num_prompts=st.integers(1, 300))
def test_shares_are_nearly_in_proportion(weights, num_prompts):
    counts = shares(weights, num_prompts, [None] * len(weights))
    for weight, count in zip(weights, counts, strict=True):
        assert abs(count - num_prompts * weight / sum(weights)) < len(weights)


def test_equal_claims_go_to_the_first():
    assert shares([1.0, 1.0], 3, [None, None]) == [2, 1]
    assert shares([1.0, 1.0], 3, [0, None]) == [0, 3]
    assert shares([], 3, []) == []


def test_a_share_of_a_writing_source_is_what_it_is_asked_for():
    assert shares([1.0, 3.0], 100, [10, None]) == [10, 90]


def test_a_source_that_runs_short_leaves_its_rest_to_the_others():
    assert shares([1.0, 1.0, 2.0], 45, [5, 100, 100]) == [5, 13, 27]
    assert shares([1.0, 1.0, 2.0], 1000, [5, 100, 100]) == [5, 100, 100]
