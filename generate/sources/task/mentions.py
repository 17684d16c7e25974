"""Whether a text mentions a value: in digits or words, with its unit, as a date, or as a label.

In: a text and JSON values. Out: booleans, and the numbers that a text mentions. Number words are
English; digits are read in any language.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import date
from itertools import groupby

from generate.sources.raw_prompt import normalize

UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven",
    "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
SMALL = {word: number for number, word in enumerate(UNITS)} | {
    word: 10 * number for number, word in enumerate(TENS, start=2)
}
SMALL |= {"oh": 0, "o": 0}
TIMES = {"once": 1, "twice": 2, "thrice": 3}
LARGE = {"hundred": 100, "thousand": 1000, "million": 1_000_000}
ORDINAL_ENDS = ["st", "nd", "rd", "th"]  # codespell:ignore
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
QUANTITY = re.compile(r"(\d+(?:\.\d+)?) ?([^\W\d]+(?:/[a-z]+)?|%)", re.IGNORECASE)
UNIT_WORDS = {
    "%": ("%", "percent", "per cent"),
    "c": ("c", "celsius", "centigrade"),
    "f": ("f", "fahrenheit"),
    "kg": ("kg", "kgs", "kilo", "kilos", "kilogram", "kilograms"),
    "lb": ("lb", "lbs", "pound", "pounds"),
    "g": ("g", "gram", "grams"),
    "mg": ("mg", "milligram", "milligrams"),
    "mcg": ("mcg", "ug", "\u00b5g", "\u03bcg", "microgram", "micrograms"),
    "ml": ("ml", "milliliter", "milliliters", "millilitre", "millilitres"),
    "cm": ("cm", "centimeter", "centimeters", "centimetre", "centimetres"),
    "km": ("km", "kilometer", "kilometers", "kilometre", "kilometres"),
    "mmol/l": ("mmol/l", "millimoles per liter", "millimoles per litre", "millimole per liter"),
    "mg/dl": ("mg/dl", "milligrams per deciliter"),
    "mg/l": ("mg/l", "milligrams per liter", "milligrams per litre"),
    "g/dl": ("g/dl", "grams per deciliter"),
}
"""Spellings of units; a text after a number that is not one of them is compared as words."""
SEX_WORDS = {
    "female": ("woman", "girl", "lady", "she", "her", "mrs", "ms"),
    "male": ("man", "boy", "gentleman", "he", "his", "him", "mr"),
}
"""Words that name a label without any of its own words."""
SEX_LETTERS = {
    sex: re.compile(
        rf"(?<![\d.])\d\d? ?(?:y|yo|yrs?|years?(?: old)?)?,? ?{sex[0]}\b", re.IGNORECASE
    )
    for sex in SEX_WORDS
}
"""The letter after an age, as in 54F."""
WORD = re.compile(r"[a-z]+|\d+", re.IGNORECASE)
VAGUE = {"other", "general", "none", "unknown", "default", "misc", "any", "unspecified"}
"""Values that nobody says."""
STEM = 4
"""Letters of a word that have to be there: a label's word may have another ending."""


def mentions(text: str, value: object) -> bool:
    """Return whether a value can be read in a text; true and false always can."""
    if isinstance(value, bool) or value is None:
        return True
    if isinstance(value, int | float):
        return any(abs(one - value) < 1e-9 for one in numbers_in(text))
    if isinstance(value, str):
        return _mentions_text(text, value)
    return True


def names(text: str, label: str) -> bool:
    """Return whether a text has one of a label's words, with any ending."""
    words = {word for word in _words(label) if not word.isdigit()} - VAGUE
    found = _words(text)
    stems = [word[:STEM] for word in words if len(word) >= STEM]
    return (
        not words
        or _names_sex(text, normalize(label), found)
        or words <= set(found)
        or any(word.startswith(stem) for stem in stems for word in found)
    )


def _names_sex(text: str, label: str, words: Sequence[str]) -> bool:
    if label not in SEX_WORDS:
        return False
    return not set(SEX_WORDS[label]).isdisjoint(words) or bool(SEX_LETTERS[label].search(text))


def numbers_in(text: str) -> set[float]:
    """Return the numbers that a text mentions, in digits or in English words."""
    times = (TIMES[word] for word in _words(text) if word in TIMES)
    return {*_in_digits(text), *_in_words(text), *times}


def digits_in(text: str) -> str:
    """Return the digits of a text in their order, spoken ones too."""
    words = WORD.findall(text.casefold())
    return "".join(
        word if word.isdigit() else str(SMALL[word]) if word in SMALL else " " for word in words
    )


def _mentions_text(text: str, value: str) -> bool:
    if value in VAGUE:
        return True
    quantity = QUANTITY.fullmatch(value)
    if quantity is not None and quantity[2].casefold() in UNIT_WORDS:
        return _mentions_quantity(text, quantity[1], UNIT_WORDS[quantity[2].casefold()])
    if f" {normalize(value)} " in f" {normalize(text)} ":
        return True
    day = _date(value)
    if day is not None:
        return _mentions_date(text, day)
    if re.fullmatch(r"\d[\d -]*", value):
        wanted = re.sub(r"\D", "", value)
        return wanted in digits_in(text) or wanted in re.sub(r"(?<=\d)[ -](?=\d)", "", text)
    words = {word for word in _words(value) if len(word) > 1}
    return bool(words) and words <= set(_words(text))


def _mentions_quantity(text: str, number: str, units: Sequence[str]) -> bool:
    """Return whether a number stands before its unit, or is in words with its unit anywhere."""
    unit = "|".join(re.escape(one) for one in units)
    plain = number.rstrip("0").rstrip(".") if "." in number else number
    digits = re.escape(plain) + ("0*" if "." in plain else r"(?:\.0+)?")
    gap = r"(?:[\s-]*)(?:\u00b0|\u00ba|deg(?:rees?)?\b\.?)?\s*"
    found = text.replace(",", "") if len(plain.partition(".")[0]) > 3 else text
    if re.search(rf"(?<![\d.]){digits}{gap}(?:{unit})(?!\w|/\w)", found, re.IGNORECASE):
        return True
    has_unit = re.search(rf"(?<!\w)(?:{unit})(?!\w|/\w)", text, re.IGNORECASE) is not None
    return has_unit and float(number) in set(_in_words(text))


def _date(value: str) -> date | None:
    try:
        return date.fromisoformat(value) if "-" in value else None
    except ValueError:
        return None


def _mentions_date(text: str, day: date) -> bool:
    words = _words(text)
    has_month = any(word.startswith(MONTHS[day.month - 1]) for word in words)
    ordinals = (f"{day.day}{end}" for end in ORDINAL_ENDS)
    days = {str(day.day), f"{day.day:02}", *ordinals}
    month = rf"\b{MONTHS[day.month - 1]}[a-z]*\W+(?:\d\d?[a-z]{{0,2}}\W+)?(\d{{4}})\b"
    years = set(re.findall(month, text.casefold()))
    if years and str(day.year) not in years:
        return False
    if has_month and days & set(re.findall(r"\w+", text.casefold())):
        return True
    dates = (re.findall(r"\d+", found) for found in re.findall(r"\d+[./-]\d+(?:[./-]\d+)?", text))
    return any(_is_date(set(map(int, numbers)), day) for numbers in dates)


def _is_date(numbers: set[int], day: date) -> bool:
    has_year = max(numbers) < 1000 or day.year in numbers
    return has_year and {day.day, day.month} <= numbers


def _in_digits(text: str) -> Iterator[float]:
    text = re.sub(r"(\d+)\.(\d+)\.(\d+)", r"\1 \2 \3", text)  # A date such as 30.09.2024.
    for found in re.finditer(r"\d[\d,']*(?:\.\d+)?(?:\s?k\b)?", text, re.IGNORECASE):
        plain = re.sub(r"[,']", "", found[0]).rstrip()
        factor = 1000 if plain[-1:] in {"k", "K"} else 1
        plain = plain.rstrip("kK ")
        yield float(plain) * factor
        if re.fullmatch(r"\d+,\d{1,2}", found[0]):  # A decimal comma.
            yield float(found[0].replace(",", "."))


def _in_words(text: str) -> Iterator[float]:
    words = [
        word
        for word in re.findall(r"[a-z]+|[^\sa-z]+", text.casefold())
        if word not in {"-", "and"}
    ]
    for is_number, run in groupby(words, key=lambda word: word in SMALL or word in LARGE):
        if is_number:
            yield from _values(list(run))


def _values(words: list[str]) -> Iterator[float]:
    """Yield what a run of number words may mean: 'one fifty' is 150, 'five three' two numbers."""
    total, current, last = 0, 0, 0
    for word in words:
        if word in LARGE:
            current = max(current, 1) * LARGE[word]
            if LARGE[word] >= 1000:
                total, current = total + current, 0
            last = 0
            continue
        value = SMALL[word]
        if last and not (last >= 20 and value < 10):
            if last < 10 <= value and current == last:  # "one fifty"
                current *= 100
            else:
                yield total + current
                total = current = 0
        current += value
        last = value
    yield total + current


def _words(text: str) -> list[str]:
    return WORD.findall(normalize(text.replace("_", " ")))
