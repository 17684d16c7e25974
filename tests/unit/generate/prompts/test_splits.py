import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generate.prompts.splits import assign_splits
from generate.sources.raw_prompt import RawPrompt
from potstill.schema import Message

SHARES = st.floats(0.001, 0.499)


def numbered(count: int) -> list[RawPrompt]:
    return [
        RawPrompt((Message(role="user", content=f"What is number {number}?"),), "made in a test")
        for number in range(count)
    ]


def splits_of(prompts, *shares, clusters=()) -> dict[str, str]:
    found = assign_splits(prompts, dict(clusters), *shares)
    return {prompt.prompt_id: prompt.split for prompt in found}


@given(st.integers(3, 60), SHARES, SHARES)
def test_validation_and_test_are_never_empty(count, validation_share, test_share):
    splits = list(splits_of(numbered(count), validation_share, test_share).values())
    assert len(splits) == count
    assert splits.count("validation") > 0
    assert splits.count("test") > 0


@pytest.mark.parametrize("count", [3, 4, 5])
def test_training_is_never_empty(count):
    assert "train" in splits_of(numbered(count), 0.499, 0.499).values()


@given(st.integers(0, 400), st.integers(3, 6), SHARES, SHARES)
def test_each_split_of_a_few_prompts_has_one(first, count, validation_share, test_share):
    prompts = numbered(first + count)[first:]
    assert len({*splits_of(prompts, validation_share, test_share).values()}) == 3


def test_prompts_keep_their_order_and_fields(raw_prompt):
    raw = [
        raw_prompt(f"number {n}", source=f"s{n}", license=["MIT", None][n % 2]) for n in range(9)
    ]
    prompts = assign_splits(raw, {}, 0.2, 0.2)
    for prompt, one in zip(prompts, raw, strict=True):
        assert prompt.prompt_id == one.prompt_id
        assert (prompt.messages, prompt.source) == (one.messages, one.source)
        assert prompt.license == one.license


@pytest.mark.slow
@given(st.integers(40, 120), st.integers(0, 80), st.randoms())
def test_a_prompt_stays_in_its_split_when_others_come(count, more, shuffler: random.Random):
    shares = (0.2, 0.2)
    before = splits_of(numbered(count), *shares)
    grown = numbered(count + more)
    shuffler.shuffle(grown)
    after = splits_of(grown, *shares)
    assert {prompt_id: after[prompt_id] for prompt_id in before} == before


def test_what_is_held_out_for_the_test_is_so_at_any_validation_share():
    prompts = numbered(200)
    tests = []
    for validation_share in (0.05, 0.3):
        splits = splits_of(prompts, validation_share, 0.1)
        tests.append({prompt_id for prompt_id, split in splits.items() if split == "test"})
    assert tests[0] == tests[1]
    assert tests[0]


def test_shares_are_met():
    splits = list(splits_of(numbered(4000), 0.1, 0.2).values())
    assert splits.count("validation") / 4000 == pytest.approx(0.1, abs=0.02)
    assert splits.count("test") / 4000 == pytest.approx(0.2, abs=0.02)


def test_what_is_chosen_first_is_not_what_is_held_out():
    """The order of choice and the splits are from independent hashes."""
    prompts = sorted(numbered(2000), key=lambda one: one.prompt_id)
    splits = splits_of(prompts[:500], 0.1, 0.2)
    assert list(splits.values()).count("test") / 500 == pytest.approx(0.2, abs=0.06)


def test_prompts_of_one_cluster_are_in_one_split():
    prompts = numbered(400)
    clusters = {one.prompt_id: prompts[n - n % 4].prompt_id for n, one in enumerate(prompts)}
    found = assign_splits(prompts, clusters, 0.2, 0.2)
    splits: dict[str, set[str]] = {}
    for prompt in found:
        assert prompt.cluster_id == clusters[prompt.prompt_id]
        splits.setdefault(prompt.cluster_id, set()).add(prompt.split)
    assert len(splits) == 100
    assert all(len(of_cluster) == 1 for of_cluster in splits.values())
    assert set.union(*splits.values()) == {"train", "validation", "test"}


def test_three_clusters_make_three_splits():
    prompts = numbered(30)
    clusters = {one.prompt_id: f"cluster {n % 3}" for n, one in enumerate(prompts)}
    splits = splits_of(prompts, 0.01, 0.01, clusters=clusters)
    assert set(splits.values()) == {"train", "validation", "test"}


def test_a_prompt_keeps_its_known_answer():
    known = '{"text": "42", "tool_calls": []}'
    prompts = [*numbered(3), RawPrompt(numbered(4)[3].messages, "made in a test", known=known)]
    assert [prompt.known for prompt in assign_splits(prompts, {}, 0.1, 0.1)] == [None] * 3 + [known]
