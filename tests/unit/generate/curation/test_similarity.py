import random
from string import ascii_lowercase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generate.curation.similarity import (
    jaccard,
    pairs_between,
    pairs_within,
    shingles,
)
from generate.sources.raw_prompt import normalize


def questions(count: int, seed: int) -> list[str]:
    """Texts of 12 words and, after each, a copy in which a few letters are another."""
    rng = random.Random(seed)
    words = ["".join(rng.choices(ascii_lowercase, k=rng.randint(2, 9))) for _ in range(40)]
    texts = []
    for _ in range(count):
        text = " ".join(rng.choices(words, k=12))
        changed = list(text)
        for _ in range(rng.randint(0, 4)):
            changed[rng.randrange(len(changed))] = rng.choice(ascii_lowercase)
        texts += [text, "".join(changed)]
    return texts


def similar_pairs(texts: list[str], threshold: float) -> dict[tuple[int, int], float]:
    """Compare all pairs."""
    sets = [shingles(text) for text in texts]
    return {
        (first, second): similarity
        for first in range(len(texts))
        for second in range(first + 1, len(texts))
        if (similarity := jaccard(sets[first], sets[second])) >= threshold
    }


@pytest.mark.parametrize("threshold", [0.6, 0.85])
def test_minhash_finds_what_comparing_all_with_all_finds(threshold):
    texts = questions(150, seed=5)
    expected = similar_pairs(texts, threshold)
    found = {
        (first, second): similarity for first, second, similarity in pairs_within(texts, threshold)
    }

    assert len(expected) > 50
    assert found.items() <= expected.items(), "precision must be 1: similarities are exact"
    assert len(found) >= 0.99 * len(expected)


def test_pairs_between_two_lists_are_those_within_their_union():
    texts = questions(60, seed=6)
    references, others = texts[::2], texts[1::2]

    found = {(first, second) for first, second, _ in pairs_between(others, references, 0.75)}

    expected = {
        (second // 2, first // 2) if first % 2 == 0 else (first // 2, second // 2)
        for first, second in similar_pairs(texts, 0.75)
        if first % 2 != second % 2
    }
    assert found == expected


def test_many_copies_of_a_text_are_all_joined_to_one_before():
    pairs = pairs_within(["the same question again"] * 200, 0.9)

    assert {second for _, second, _ in pairs} == set(range(1, 200))
    assert len(pairs) <= 200 * 65, "a window keeps it from comparing all with all"


@pytest.mark.parametrize("texts", [[], ["one text"], ["", ""]])
def test_nothing_is_similar_to_nothing(texts):
    assert pairs_within(texts, 0.5) == []
    assert pairs_between(texts, [], 0.5) == []


@given(st.text(), st.text())
def test_similarity_is_symmetric_and_bounded(first, second):
    one, other = shingles(normalize(first)), shingles(normalize(second))

    assert 0 <= jaccard(one, other) == jaccard(other, one) <= 1
    assert jaccard(one, one) == (1 if one else 0)
