"""Bounds as text: rounding moves none across its threshold."""

import pytest

from compare.verdict.figures import bound, bounds_in_words


@pytest.mark.parametrize(
    ("value", "threshold", "digits", "text"),
    [
        (-0.0504, -0.05, 2, "-0.0504"),
        (-0.0496, -0.05, 2, "-0.0496"),
        (-0.04, -0.05, 2, "-0.04"),
        (0.45004, 0.45, 3, "0.45004"),
        (0.4499996, 0.45, 3, "0.4499996"),
        (0.5, 0.45, 3, "0.500"),
        (0.45, 0.45, 3, "0.4500000"),
        (0.4503, None, 3, "0.450"),
    ],
)
def test_a_bound_shows_on_which_side_of_its_threshold_it_is(value, threshold, digits, text):
    assert bound(value, threshold, digits) == text


def test_a_pass_is_not_printed_as_a_bound_at_the_threshold():
    words = bounds_in_words(0.45004, 0.5204, 0.04, threshold=0.45)
    assert words == "0.45004 to 0.520 (92% interval: two one-sided 96% bounds)"
    assert bounds_in_words(0.45004, 0.5204, 0.04).startswith("0.450 to 0.520 ")
