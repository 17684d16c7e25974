"""Suites that templates write: the same items on every machine.

In: fragments in `suites/`, a fixed seed. Out: prompts with their known answers.
"""

from __future__ import annotations

import json
import random
import string
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any

from potstill.schema import Message
from potstill.task.answers import Answer, Item

SEED = 20261129
NUM_ITEMS = 200
LETTERS = "ABCD"
NAMES = ("Ann", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Ida", "Jack")
CITIES = ("Bern", "Cork", "Ghent", "Graz", "Leeds", "Lyon", "Nice", "Oslo", "Porto", "Turin")
THINGS = ("apples", "books", "chairs", "coins", "cups", "eggs", "keys", "pens", "shirts", "stamps")


def item(prompt: str, known: str | None = None) -> Item:
    """Return a prompt of one message with its known answer."""
    answer = None if known is None else Answer(text=known)
    return Item(messages=(Message(role="user", content=prompt),), known=answer)


@cache
def read_lines(name: str) -> tuple[Item, ...]:
    """Return the prompts of a suite that was written by hand; lines that begin with # are notes."""
    lines = _file(f"{name}.txt").splitlines()
    return tuple(item(line) for line in lines if line and not line.startswith("#"))


@cache
def stopping() -> tuple[Item, ...]:
    """Return unusual inputs, twenty of a kind, that a short answer fits."""
    chance = random.Random(SEED)
    parts: dict[str, list[str]] = tomllib.loads(_file("stopping.toml"))
    words = parts.pop("words")
    given = [text for texts in parts.values() for text in texts]
    made = [text for word in words for text in _odd_inputs(word, words, chance)]
    return tuple(map(item, given + made))


def _odd_inputs(word: str, words: list[str], chance: random.Random) -> Iterator[str]:
    yield " ".join([word] * chance.randint(8, 40))
    yield "".join(chance.choices(string.ascii_lowercase + "   ", k=chance.randint(10, 60)))
    yield " ".join(chance.sample(words, chance.randint(4, 15)))
    yield f"{word}{'!' * chance.randint(5, 30)}"
    yield "-".join(str(chance.randrange(10_000)) for _ in range(chance.randint(2, 8)))
    rows = (f"{one},{chance.randrange(100)}" for one in chance.sample(words, 8))
    yield "\n".join(["name,number", *rows])


@cache
def arithmetic() -> tuple[Item, ...]:
    """Return sums, differences, products and short word problems with whole numbers."""
    chance = random.Random(SEED)
    found: dict[str, str] = {}
    while len(found) < NUM_ITEMS:
        prompt, result = _problem(len(found) % 5, chance)
        found[f"{prompt} Answer with the number alone."] = str(result)
    return tuple(item(prompt, known) for prompt, known in found.items())


def _problem(kind: int, chance: random.Random) -> tuple[str, int]:
    more, less = chance.randint(20, 99), chance.randint(3, 19)
    name, things = chance.choice(NAMES), chance.choice(THINGS)
    if kind == 0:
        return f"What is {more} + {less}?", more + less
    if kind == 1:
        return f"What is {more} - {less}?", more - less
    if kind == 2:
        return f"What is {less} * {more % 10 + 2}?", less * (more % 10 + 2)
    if kind == 3:
        left = f"{name} has {more} {things} and gives {less} away. How many are left?"
        return left, more - less
    return f"{name} has {less} boxes with {more} {things} each. How many in all?", less * more


@cache
def json_objects() -> tuple[Item, ...]:
    """Return requests for a JSON object with given fields."""
    chance = random.Random(SEED)
    found: dict[str, str] = {}
    while len(found) < NUM_ITEMS:
        content: dict[str, Any] = {
            "name": chance.choice(NAMES),
            "city": chance.choice(CITIES),
            "age": chance.randint(18, 80),
            "items": chance.sample(THINGS, 2),
            "is_member": chance.random() < 0.5,
        }
        keys = sorted(chance.sample(sorted(content), chance.randint(2, 4)))
        wanted = {key: content[key] for key in keys}
        fields = "; ".join(f"{key}: {_in_words(value)}" for key, value in wanted.items())
        prompt = f"Write one JSON object with these fields, and nothing else. {fields}"
        found[prompt] = json.dumps(wanted)
    return tuple(item(prompt, known) for prompt, known in found.items())


def _in_words(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"a list of {' and '.join(value)}"
    return f"the number {value}" if isinstance(value, int) else f"the text {value}"


@cache
def choice() -> tuple[Item, ...]:
    """Return questions with four choices, the wrong ones right answers of the same kind."""
    chance = random.Random(SEED)
    found = []
    for facts in tomllib.loads(_file("facts.toml")).values():
        question = facts.pop("question")
        for subject, right in facts.items():
            others = sorted(set(facts.values()) - {right})
            choices = chance.sample([right, *chance.sample(others, len(LETTERS) - 1)], len(LETTERS))
            lines = [f"{letter}) {one}" for letter, one in zip(LETTERS, choices, strict=True)]
            asked = [question.format(subject), *lines, "Answer with the letter alone."]
            found.append(item("\n".join(asked), LETTERS[choices.index(right)]))
    return tuple(found)


def _file(name: str) -> str:
    return resources.files("compare").joinpath("gate/suites", name).read_text(encoding="utf-8")
