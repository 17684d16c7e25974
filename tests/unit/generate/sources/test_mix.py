import pytest
from hypothesis import given
from hypothesis import strategies as st

from generate.prompts import RawPrompt, choose
from generate.sources.mix import distinct_between, mix, shares
from potstill.schema import Message


def numbered(count: int, source: str, start: int = 0) -> list[RawPrompt]:
    return [
        RawPrompt((Message(role="user", content=f"What is number {number}?"),), source)
        for number in range(start, start + count)
    ]


def counted(prompts) -> dict[str, int]:
    sources = [prompt.source for prompt in prompts]
    return {source: sources.count(source) for source in sorted(set(sources))}


def test_each_source_gives_its_weights_share():
    sources = [(3.0, numbered(100, "a")), (1.0, numbered(100, "b", 100))]
    assert counted(mix(sources, 40)) == {"a": 30, "b": 10}


def test_a_source_that_runs_short_leaves_its_rest_to_the_others():
    sources = [
        (1.0, numbered(5, "a")),
        (1.0, numbered(100, "b", 100)),
        (2.0, numbered(100, "c", 200)),
    ]
    assert counted(mix(sources, 45)) == {"a": 5, "b": 13, "c": 27}
    assert counted(mix(sources, 1000)) == {"a": 5, "b": 100, "c": 100}


def test_a_prompt_of_two_sources_belongs_to_the_first():
    ours, theirs = numbered(10, "a"), numbered(10, "b", 5)
    louder = [
        RawPrompt((Message(role="user", content=prompt.messages[0].content.upper()),), "b")
        for prompt in ours
    ]
    own = distinct_between([ours + ours, theirs + louder])
    assert own == [ours, theirs[5:]]
    assert counted(mix([(1.0, ours), (1.0, theirs)], 100)) == {"a": 10, "b": 5}


def test_one_source_is_chosen_from_as_before_there_were_several():
    prompts = numbered(100, "a")
    assert mix([(0.3, prompts)], 20) == choose(prompts, 20)


def test_the_same_prompts_are_taken_whatever_their_order():
    one, other = numbered(50, "a"), numbered(50, "b", 50)
    taken = mix([(1.0, one), (2.0, other)], 30)
    assert mix([(1.0, one[::-1]), (2.0, iter(other[::-1]))], 30) == taken
    assert [prompt.prompt_id for prompt in taken] == sorted(one.prompt_id for one in taken)


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


@pytest.mark.parametrize("num_prompts", [0, 1])
def test_no_sources_give_no_prompts(num_prompts):
    assert mix([], num_prompts) == []
