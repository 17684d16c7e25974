import pytest
from hypothesis import given
from hypothesis import strategies as st

from generate.sources.task.mentions import mentions, names, numbers_in
from generate.sources.task.noise import number_words

READABLE = [
    ("Pay 1,500 dollars to the gym", 1500),
    ("pay fifteen hundred to the gym", 1500),
    ("two thousand five hundred and twenty", 2520),
    ("like one fifty bucks", 150),
    ("a hundred and fifty two Verizon", 152),
    ("it was $2.5k", 2500),
    ("12,50 euros", 12.5),
    ("costs 43.99.", 43.99),
    ("ending in 4532", "4532"),
    ("ending in 45 32", "4532"),
    ("ending four five three two", "4532"),
    ("oh seven one two", "0712"),
    ("to the Gas Company!", "gas company"),
    ("on the 5th of March", "2024-03-05"),
    ("on 05/03/2024", "2024-03-05"),
    ("since March 5, 2024", "2024-03-05"),
    ("12 March 2024: seen for 2000 dollars", "2024-03-12"),
    ("temp 38.40\u00b0C", "38.4 C"),
    ("a temperature of 101 degrees Fahrenheit", "101 F"),
    ("ibuprofen 400mg", "400 mg"),
    ("fifty micrograms each morning", "50 mcg"),
    ("1,200-milligram tablets", "1200 mg"),
    ("CRP 48 mg/L, 48 mg of it", "48 mg"),
    ("two eggs, please", "2 eggs"),
    ("take it twice daily", 2),
    ("Mrs. Ann Lee", "Ann Lee"),
    ("no known allergies", "none"),
    ("it is on", True),
    ("nothing", None),
]
UNREADABLE = [
    ("Pay 150 dollars", 1500),
    ("Pay some dollars", 150),
    ("ending in 4523", "4532"),
    ("to the water company", "gas company"),
    ("on the 5th of May", "2024-03-05"),
    ("on 6/7/2024", "2024-03-05"),
    ("on 5/3/2023", "2024-03-05"),
    ("on March 5th, 2023", "2024-03-05"),
    ("5 March 2023", "2024-03-05"),
    ("temp 38.4 F", "38.4 C"),
    ("weighs 78 kg", "8 kg"),
    ("CRP 48 mg/L", "48 mg"),
    ("ibuprofen 400 mcg", "400 mg"),
    ("Mrs. Anna Lee", "Ann Lee"),
]


@pytest.mark.parametrize(("text", "value"), READABLE)
def test_a_value_is_read_in_many_forms(text, value):
    assert mentions(text, value)


@pytest.mark.parametrize(("text", "value"), UNREADABLE)
def test_another_value_is_none(text, value):
    assert not mentions(text, value)


@given(st.integers(0, 999_999))
def test_spoken_numbers_are_read(number):
    assert number in numbers_in(f"send {number_words(f'{number:,}')} dollars")


@given(st.from_regex(r"\A0[0-9]{3,7}\Z"))
def test_spoken_codes_are_read(code):
    assert mentions(f"my card {number_words(code)} please", code)


@pytest.mark.parametrize(
    ("text", "label", "expected"),
    [
        ("it was stolen", "stolen", True),
        ("somebody stole it", "stolen", True),
        ("my card is gone", "stolen", False),
        ("for the last three months", "last_3_months", True),
        ("for last year", "last_3_months", True),
        ("I lost it", "other", True),
        ("Mr. Lee, 54", "male", True),
        ("a woman of 54", "female", True),
        ("a woman of 54", "male", False),
        ("44M, seen today", "male", True),
        ("54 y, f, seen today", "female", True),
        ("I'm 54", "male", False),
        ("a fever of 101.3 F", "female", False),
    ],
)
def test_a_label_is_named_by_its_words(text, label, expected):
    assert names(text, label) is expected


def test_the_parts_of_a_date_are_numbers_of_their_own():
    assert numbers_in("on 30.09.2024") == {30, 9, 2024}
