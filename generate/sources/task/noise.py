"""Typos and errors of speech recognition, put into written texts.

In: a text, and the words that stay readable. Out: the text with errors. The words and homophones of
speech are English; typos suit every alphabet.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

from generate.sources.raw_prompt import normalize
from generate.sources.task.mentions import LARGE, TENS, UNITS

Kind = TypeVar("Kind", bound=str)

TYPO_SHARE = 0.12
"""Share of the words that get an error of typing; at least one does."""
MIN_TYPO_LETTERS = 4
FILLERS = ("uh", "um", "like", "uh", "um", "you know", "so")
FILLER_SHARE, HOMOPHONE_SHARE, SPLIT_SHARE, ENDING_SHARE, LETTER_SHARE = 0.08, 0.3, 0.2, 0.3, 0.08
SPELLED_SHARE = 0.6
"""Of the numbers in a text, those that speech recognition leaves in words."""
MIN_SPLIT_LETTERS = 5
VOWELS = "aeiou"
HOMOPHONES = {
    "to": "too", "too": "to", "your": "you're", "you're": "your", "there": "their",
    "their": "there", "know": "no", "new": "knew", "need": "kneed", "hear": "here",
    "week": "weak", "by": "buy", "buy": "by", "right": "write", "write": "right", "see": "sea",
    "whole": "hole", "sent": "cent", "wait": "weight", "mail": "male", "pin": "pen",
    "check": "cheque", "send": "sand", "because": "cause",
}  # fmt: skip
NUMBER_WORDS = {*UNITS, *TENS, *LARGE}
NUMBER = re.compile(r"\$?\d[\d,]*(?:\.\d+)?")


def add_noise(text: str, kind: str, kept: Collection[str], draw: random.Random) -> str:
    """Return a text with noise; unchanged for a kind that is not applied here.

    Args:
        kind: One of `KINDS`.
        kept: Texts whose words get no errors; speech still spells their digits.
    """
    if kind not in KINDS:
        return text
    words = {word for one in kept for word in normalize(one).split()}
    return KINDS[kind](text, words, draw)


def draw_kind(frequencies: Mapping[Kind, float], draw: random.Random) -> Kind:
    """Return one of several kinds, drawn by their relative frequencies."""
    return draw.choices(list(frequencies), list(frequencies.values()))[0]


def number_words(text: str) -> str:
    """Return digits as English words: up to 999,999 as a number, long codes digit by digit.

    A code has a leading zero, or four digits and more without a round end.
    """
    digits = text.lstrip("$").replace(",", "")
    whole, _, decimals = digits.partition(".")
    is_code = "," not in text and not decimals and (
        whole.startswith("0") or len(whole) > 6 or (len(whole) >= 4 and not whole.endswith("00"))
    )  # fmt: skip
    spoken = " ".join(UNITS[int(one)] for one in whole) if is_code else _spoken(int(whole))
    if decimals:
        spoken += f" point {' '.join(UNITS[int(one)] for one in decimals)}"
    return spoken + " dollars" * text.startswith("$")


def _lowercase(text: str, _kept: Collection[str], _draw: random.Random) -> str:
    return text.lower().rstrip(".")


def _capitals(text: str, _kept: Collection[str], _draw: random.Random) -> str:
    return text.upper()


def _typos(text: str, kept: Collection[str], draw: random.Random) -> str:
    words = text.split(" ")
    places = [
        number
        for number, word in enumerate(words)
        if len(word) >= MIN_TYPO_LETTERS and word.isalpha() and word.casefold() not in kept
    ]
    chosen = [number for number in places if draw.random() < TYPO_SHARE]
    for number in chosen or draw.sample(places, min(1, len(places))):
        words[number] = _mistyped(words[number], draw)
    return " ".join(words)


def _mistyped(word: str, draw: random.Random) -> str:
    at = draw.randrange(1, len(word) - 1)
    swapped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    errors = (word[:at] + word[at + 1 :], word[:at] + word[at] + word[at:], swapped)
    return draw.choice([error for error in errors if error != word])


def _speech(text: str, kept: Collection[str], draw: random.Random) -> str:
    spelled = NUMBER.sub(
        lambda found: number_words(found[0]) if draw.random() < SPELLED_SHARE else found[0], text
    )
    plain = re.sub(r"[.,;:!?\"()]+(?=\s|$)", "", spelled)
    words = [_misheard(word, kept, draw) for word in plain.split()]
    spoken: list[str] = []
    for word in words:
        inside_number = bool(spoken) and spoken[-1] in NUMBER_WORDS and word in NUMBER_WORDS
        if draw.random() < FILLER_SHARE and not inside_number:
            spoken.append(draw.choice(FILLERS))
        spoken.append(word)
    return " ".join(spoken)


def _misheard(word: str, kept: Collection[str], draw: random.Random) -> str:
    plain = word.casefold()
    if plain in kept or not word.isalpha() or plain in NUMBER_WORDS:
        return word
    if plain in HOMOPHONES and draw.random() < HOMOPHONE_SHARE:
        return HOMOPHONES[plain]
    if plain.endswith("ing") and len(word) > 5 and draw.random() < ENDING_SHARE:
        return word[:-1]
    if len(word) >= MIN_SPLIT_LETTERS and draw.random() < SPLIT_SHARE:
        at = draw.randrange(2, len(word) - 1)
        return f"{word[:at]} {word[at:]}"
    if len(word) >= MIN_TYPO_LETTERS and draw.random() < LETTER_SHARE:
        return _changed_letter(word, draw)
    return word


def _changed_letter(word: str, draw: random.Random) -> str:
    """Return a word without its last letter, or with another vowel."""
    places = [at for at, letter in enumerate(word) if letter in VOWELS]
    if not places or draw.random() < 1 / 3:
        return word[:-1]
    at = draw.choice(places)
    other = draw.choice([vowel for vowel in VOWELS if vowel != word[at]])
    return word[:at] + other + word[at + 1 :]


def _spoken(number: int) -> str:
    if number < 20:
        return UNITS[number]
    if number < 100:
        rest = number % 10
        return TENS[number // 10 - 2] + (f" {UNITS[rest]}" if rest else "")
    name, size = next((one, size) for one, size in reversed(LARGE.items()) if number >= size)
    rest = number % size
    return f"{_spoken(number // size)} {name}" + (f" {_spoken(rest)}" if rest else "")


KINDS: dict[str, Callable[[str, Collection[str], random.Random], str]] = {
    "none": lambda text, _kept, _draw: text,
    "lowercase": _lowercase,
    "capitals": _capitals,
    "typos": _typos,
    "speech": _speech,
}
"""Kinds of noise that are applied to texts, by name."""
