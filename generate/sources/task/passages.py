"""Inputs of several passages, each of which the teacher has written for a part of a record.

In: passages with the records that they state, by part, and a drawn record. Out: one input, and the
record that it states. Whoever calls it checks the result as if the teacher had written it.

Recombination of training inputs whose answers compose: Jia and Liang, "Data Recombination for
Neural Semantic Parsing" (2016), section 4.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from generate.sources.task.refill import nearness, refilled
from generate.sources.task.wanted import Wanted

NUM_CHOICES = 4
"""Passages drawn for each part, of which the nearest to the record is taken."""
SHUFFLED_SHARE = 0.5
"""Share of inputs whose passages do not stand in the order of the parts."""
SEPARATORS = (" ", " ", "\n")
ENDS = (".", "!", "?", ":", ";", ",", "-")


class Passage(NamedTuple):
    """A text with what it states."""

    wanted: Wanted
    text: str


def compose(
    passages: Mapping[str, Sequence[Passage]],
    parts: Mapping[str, Sequence[str]],
    donor: Wanted,
    draw: random.Random,
) -> tuple[dict[str, Any], str]:
    """Return the record and the text of one input: a passage for each part that the donor has.

    Args:
        passages: The passages of each part; a part without any is left out.
        parts: The fields of each part.
        donor: A whole record, whose values the passages get where they can be replaced.
    """
    wanted_fields = donor.record or {}
    names = [name for name in parts if passages.get(name) and set(parts[name]) & set(wanted_fields)]
    if draw.random() < SHUFFLED_SHARE:
        draw.shuffle(names)
    record: dict[str, Any] = {}
    texts = []
    for name in names:
        some = draw.sample(passages[name], min(NUM_CHOICES, len(passages[name])))
        nearest = max(some, key=lambda one: _fit(one.wanted, donor))
        again = refilled(nearest.wanted, nearest.text, donor, least=1)
        wanted, text = nearest if again is None else again
        record |= wanted.record or {}
        texts.append(text)
    return record, _joined(texts, draw.choice(SEPARATORS))


def _fit(wanted: Wanted, donor: Wanted) -> int:
    """Return how well a passage fits a record: it should state neither less nor more."""
    surplus = set(wanted.record or {}) - set(donor.record or {})
    return nearness(wanted, donor) - len(surplus)


def _joined(texts: Sequence[str], separator: str) -> str:
    if separator == "\n":
        return separator.join(texts)
    return separator.join(text if text.endswith(ENDS) else f"{text}." for text in texts)
