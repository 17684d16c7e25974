import random
import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generate.curation.config import AppliedNoise
from generate.sources.task.mentions import mentions
from generate.sources.task.noise import KINDS, add_noise, number_words

TEXT = "I want to transfer 1500 dollars from my savings account to Wilhelmina, please."


def noisy(kind, text=TEXT, kept=(), seed=0):
    return add_noise(text, kind, kept, random.Random(seed))


@pytest.mark.parametrize("kind", ["none", "in riddles"])
def test_other_kinds_change_nothing(kind):
    assert noisy(kind) == TEXT


def test_lower_case_has_no_full_stop():
    assert noisy("lowercase") == TEXT.lower().rstrip(".")


def test_kinds_of_the_configuration_are_those_that_are_applied():
    assert set(get_args(AppliedNoise)) == set(KINDS)
    assert noisy("capitals") == TEXT.upper()


@given(st.integers(0, 2**32))
def test_errors_of_typing_change_a_letter_or_two_of_a_word(seed):
    text = noisy("typos", seed=seed)
    pairs = list(zip(text.split(" "), TEXT.split(" "), strict=True))
    changed = [(one, other) for one, other in pairs if one != other]
    assert changed
    assert all(abs(len(one) - len(other)) <= 1 and one[0] == other[0] for one, other in changed)


@given(st.integers(0, 2**32), st.sampled_from(sorted(KINDS)))
def test_values_stay_readable(seed, kind):
    text = noisy(kind, kept=["Wilhelmina", "1500"], seed=seed)
    assert mentions(text, "Wilhelmina")
    assert mentions(text, 1500)


def test_speech_has_numbers_in_words_or_digits_some_fillers_and_no_punctuation():
    texts = [noisy("speech", "Um, cancel card 4532. It's lost, stolen or both!", seed=seed)
             for seed in range(40)]  # fmt: skip
    assert not any(re.search(r"[,.!?]", text) for text in texts)
    assert any(" uh " in text or " like " in text for text in texts)
    assert all(("four five three two" in text) != ("4532" in text) for text in texts)
    assert 10 < sum("4532" in text for text in texts) < 30


@pytest.mark.parametrize(
    ("digits", "words"),
    [
        ("0", "zero"),
        ("42", "forty two"),
        ("150", "one hundred fifty"),
        ("1500", "one thousand five hundred"),
        ("4532", "four five three two"),
        ("0042", "zero zero four two"),
        ("1,234", "one thousand two hundred thirty four"),
        ("$12.50", "twelve point five zero dollars"),
    ],
)
def test_numbers_are_spelled_as_people_say_them(digits, words):
    assert number_words(digits) == words
