import pytest

from potstill.task.metrics.config import NumericConfig
from potstill.task.metrics.numeric import Numeric, last_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12", 12.0),
        ("3 of 4 are -1.5e3", -1500.0),
        ("1,234,567.5 dollars", 1234567.5),
        ("1,23", 23.0),
        ("about .5", 0.5),
        ("none", None),
        ("1e999", None),
    ],
)
def test_the_last_number_is_read(text, number):
    assert last_number(text) == number


@pytest.mark.parametrize(
    ("said", "known", "value"),
    [
        ("so 12.0", "12", 1.0),
        ("12.000001", "12", 1.0),
        ("12.1", "12", 0.0),
        ("no idea", "12", 0.0),
        ("12", "none", 0.0),
    ],
)
def test_numbers_are_compared(scored, said, known, value):
    assert scored(Numeric(NumericConfig()), said, known).value == value
