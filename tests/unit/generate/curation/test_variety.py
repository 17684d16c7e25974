import pytest
from hypothesis import given
from hypothesis import strategies as st

from generate.curation.variety import (
    category_shares,
    compare_variety,
    distinct_n,
    num_clusters,
)

WORDS = ("amber", "birch", "copper", "dune", "ember", "fjord", "granite", "harbor", "ivory", "jade")
VARIED = [f"why is the {one} {other} of {one} late today" for one in WORDS for other in WORDS[:4]]
ALIKE = [f"why is my new card still not here at all {word}" for word in WORDS * 4]


def test_distinct_triples_of_words():
    assert distinct_n(["a b c d", "a b c"]) == pytest.approx(2 / 3)
    assert distinct_n(["a b", ""]) == 0.0
    assert distinct_n(["a b a b"], n=2) == pytest.approx(2 / 3)


@given(st.lists(st.text("ab ", max_size=20)))
def test_it_is_a_share(texts):
    assert 0.0 <= distinct_n(texts) <= 1.0


def test_texts_that_differ_by_a_word_are_in_one_cluster():
    assert num_clusters(ALIKE, 0.6) == 1
    assert num_clusters(["why is the sky blue", "how do i boil an egg"], 0.6) == 2


def test_varied_texts_are_as_varied_as_real_ones_and_texts_of_one_form_are_not():
    real = VARIED[::5]
    same = compare_variety(VARIED, real, 0.9)
    assert same.num_texts == len(real)
    assert same.is_varied
    assert not compare_variety(ALIKE, real, 0.9).is_varied
    assert compare_variety([], real, 0.9) is None


def test_figures_are_the_same_each_time():
    assert compare_variety(VARIED, ALIKE, 0.6) == compare_variety(VARIED, ALIKE, 0.6)


def test_shares_stand_beside_their_targets():
    first, second, third = category_shares({"a": 3, "c": 1}, {"a": 2.0, "b": 2.0})
    assert (first.name, first.count, first.share, first.target) == ("a", 3, 0.75, 0.5)
    assert (first.ratio, first.is_balanced) == (1.5, True)
    assert (second.name, second.count, second.ratio, second.is_balanced) == ("b", 0, 0.0, False)
    assert (third.name, third.target, third.ratio, third.is_balanced) == ("c", None, None, True)
    assert category_shares({}, {}) == ()
