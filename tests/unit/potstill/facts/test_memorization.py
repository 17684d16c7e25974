import pytest

from potstill.facts.memorization import CanaryFigures, Completions, Memorization, Share

FEW = Share(value=0.02, lower=0.004, upper=0.061)
NONE = Share(value=0.0, lower=0.0, upper=0.03)


def memorized(**changes):
    known = {
        "min_tokens": 20,
        "num_distinct": 900,
        "trained": Completions(num_answers=100, share=FEW),
        "untrained": Completions(num_answers=100, share=NONE),
        "held_out": Completions(num_answers=80, share=NONE),
        "surplus": FEW,
    }
    return Memorization(**known | changes)


def canaries(*exposures, num_verbatim=0):
    return CanaryFigures(
        num_candidates=128, exposures_bits=exposures, num_verbatim=num_verbatim, p_value=0.4
    )


def test_shares_stand_with_their_bounds():
    first, second = memorized().sentences
    assert "completes 2.0% [0.4%, 6.1%] of 100 training answers verbatim" in first
    assert second == (
        "Before training it completed 0.0% [0.0%, 3.0%] of them; of 80 held-out answers, it "
        "completes 0.0% [0.0%, 3.0%]; the surplus over held-out answers is 2.0% [0.4%, 6.1%]."
    )


def test_what_is_missing_is_not_said():
    _, second = memorized(untrained=None, held_out=None).sentences
    assert second == "The surplus over held-out answers is 2.0% [0.4%, 6.1%]."
    (nothing,) = Memorization(min_tokens=20, num_distinct=0).sentences
    assert "not measured" in nothing


def test_whose_text_was_completed_is_said_where_it_is_known():
    *_, last = memorized(num_by_teacher=1).sentences
    assert last == (
        "Of the 2 that it completes, the teacher writes 1 itself: each token of the second half "
        "was its most probable one."
    )
    nothing = Completions(num_answers=100, share=NONE)
    assert len(memorized(trained=nothing, surplus=NONE, num_by_teacher=0).sentences) == 2


def test_canaries_are_reported_with_what_chance_gives():
    *_, last = memorized(canaries=canaries(7.0, 0.0, num_verbatim=1)).sentences
    assert last == (
        "1 of 2 canaries completed, mean exposure 3.5 bits (at most 7, by chance 1.4; p = 0.4 of "
        "so much if none was learned)."
    )


@pytest.mark.parametrize(
    ("found", "exceeds"),
    [
        (memorized(), False),
        (memorized(surplus=Share(value=0.06, lower=0.01, upper=0.1)), True),
        (memorized(canaries=canaries(7.0, 1.0)), False),
        (memorized(canaries=canaries(7.0, 1.0, num_verbatim=1)), True),
        (Memorization(min_tokens=20, num_distinct=0), False),
        (Memorization(min_tokens=20, num_distinct=0, canaries=canaries(7, num_verbatim=1)), True),
    ],
)
def test_answers_or_canaries_exceed_the_limit(found, exceeds):
    assert found.exceeds(0.05) is exceeds
