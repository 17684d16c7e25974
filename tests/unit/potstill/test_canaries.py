import pytest

from potstill.canaries import NUM_CANDIDATES, SECRET, candidates, make_canaries


def test_canaries_are_distinct_and_the_same_for_a_seed():
    made = make_canaries(50, seed=3)
    assert made == make_canaries(50, seed=3)
    assert made[:20] == make_canaries(20, seed=3)
    assert not set(made) & set(make_canaries(50, seed=4))
    for one in made:
        assert SECRET.search(one.answer)
        assert not SECRET.search(one.question)
    assert len({one.question for one in made}) == len({one.answer for one in made}) == 50


def test_candidates_differ_in_the_secret_alone():
    (canary,) = make_canaries(1, seed=0)
    found = candidates(canary.answer)
    assert found[0] == canary.answer
    assert len(set(found)) == NUM_CANDIDATES
    assert {SECRET.sub("", one) for one in found} == {SECRET.sub("", canary.answer)}
    assert found == candidates(canary.answer)


def test_an_answer_without_a_secret_is_refused():
    with pytest.raises(ValueError, match="without a secret"):
        candidates("The code is 12.")
