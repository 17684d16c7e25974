"""Canaries: texts with a random secret, planted in training data to measure memorization.

In: a number, a seed. Out: questions and answers that nobody has written, and other secrets of the
same kind, which are as probable to a model that has not learned the planted one.

Source: Carlini et al. 2019, "The Secret Sharer", USENIX Security.
"""

from __future__ import annotations

import random
import re
import string
from dataclasses import dataclass

SECRET = re.compile(r"\b\d{3}(?: \d{3}){3}\b")
"""Twelve digits: 40 bits, far above any exposure that is measured."""
NUM_CANDIDATES = 128
"""Secrets among which a planted one is ranked: 7 bits of exposure at most, and a p-value of 0.008
for each canary that ranks first."""
NAME_LETTERS = 8


@dataclass(frozen=True)
class Canary:
    """A planted question and answer."""

    question: str
    answer: str


def make_canaries(number: int, seed: int) -> list[Canary]:
    """Return canaries, the same for the same seed; more of them begin with the fewer."""
    chance = random.Random(f"canaries {seed}")
    return [_canary(chance) for _ in range(number)]


def candidates(answer: str, number: int = NUM_CANDIDATES) -> list[str]:
    """Return a canary's answer and the same with other secrets, so many in all.

    Raises:
        ValueError: There is no secret in it.
    """
    if SECRET.search(answer) is None:
        raise ValueError("an answer without a secret")
    chance = random.Random(f"candidates {answer}")
    found = {answer: None}
    while len(found) < number:
        found[SECRET.sub(_secret(chance), answer)] = None
    return list(found)


def _canary(chance: random.Random) -> Canary:
    name = "".join(chance.choices(string.ascii_uppercase, k=NAME_LETTERS))
    return Canary(f"What is the code of locker {name}?", f"The code is {_secret(chance)}.")


def _secret(chance: random.Random) -> str:
    return " ".join(f"{chance.randrange(1000):03}" for _ in range(4))
