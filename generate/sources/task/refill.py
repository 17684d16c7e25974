"""Written inputs again with other values, which costs the teacher nothing.

In: an input with the record that it states, and another record. Out: the input with the other
record's values where the former ones can be found in it literally, and what it then states.
Whoever calls it checks the result as if the teacher had written it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from typing import Any, NamedTuple

from generate.sources.task.mentions import QUANTITY
from generate.sources.task.wanted import Wanted

LEAST_NUMBER = 10
"""Smaller numbers are written in many ways, and stand for other things as well."""
MIN_REPLACED = 3
"""Fewest values that make another input of it."""


class _Span(NamedTuple):
    start: int
    end: int
    text: str


def refilled(
    wanted: Wanted, text: str, donor: Wanted, least: int = MIN_REPLACED
) -> tuple[Wanted, str] | None:
    """Return an input with values of another record; None when too few can be replaced.

    A value is replaced where it stands exactly once, word for word, as a number before its unit,
    or as a date; fields that the other record does not have keep theirs.

    Args:
        wanted: One turn that states a flat record.
        donor: The same for the other record.
        least: Fewest values to replace.
    """
    old, new = wanted.record, donor.record
    if old is None or new is None:
        return None
    spans: list[_Span] = []
    changed: dict[str, Any] = {}
    for name, value in old.items():
        span = _replacement(text, value, new.get(name))
        if span is not None and all(
            span.end <= one.start or one.end <= span.start for one in spans
        ):
            spans.append(span)
            changed[name] = new[name]
    if len(changed) < least:
        return None
    for span in sorted(spans, reverse=True):
        text = text[: span.start] + span.text + text[span.end :]
    return wanted.with_record({**old, **changed}), text


def nearness(wanted: Wanted, donor: Wanted) -> int:
    """Return how well a record fits an input: by common fields, and by equal choices above all."""
    old, new = dict(wanted.said), dict(donor.said)
    common = old.keys() & new.keys()
    choices = [one for one in common if isinstance(old[one], bool) or old[one] in wanted.labels]
    num_equal = len([one for one in choices if old[one] == new[one]])
    return len(common) + 2 * num_equal


def _replacement(text: str, old: object, new: object) -> _Span | None:
    if new is None or type(old) is not type(new) or old == new or isinstance(old, bool):
        return None
    if isinstance(old, int | float) and isinstance(new, int | float):
        both = min(old, new) >= LEAST_NUMBER
        return _once(text, f"{old}", f"{new}") if both else None
    old, new = str(old), str(new)
    for spell in (_as_quantity, _as_date):
        parts = spell(old), spell(new)
        if None not in parts:
            return _spelled(text, parts[0] or {}, parts[1] or {})
    is_name = all(word[:1].isalpha() for word in old.split())
    if is_name and any(len(_places(text, word)) != 1 for word in old.split()):
        return None
    return _once(text, old, new)


def _spelled(text: str, old: Mapping[str, str], new: Mapping[str, str]) -> _Span | None:
    """Return the first spelling of a value that stands in the text exactly once."""
    found = (_once(text, old[form], new[form]) for form in old if form in new)
    return next((span for span in found if span is not None), None)


def _once(text: str, old: str, new: str) -> _Span | None:
    places = _places(text, old)
    if len(places) != 1:
        return None
    start, end = places[0].span()
    is_capital = text[start].isupper() and old[0].islower()
    return _Span(start, end, new[:1].upper() + new[1:] if is_capital else new)


def _places(text: str, words: str) -> list[re.Match[str]]:
    pattern = rf"(?<![\w/])(?<!\d[.,-]){re.escape(words)}(?![\w/]|[.,-]\d)"
    return list(re.finditer(pattern, text, re.IGNORECASE))


def _as_quantity(value: str) -> dict[str, str] | None:
    """Return the spellings of a number with a unit, by their form."""
    found = QUANTITY.fullmatch(value)
    if found is None:
        return None
    number, unit = found[1], found[2]
    gaps = ("", " ", "\u00b0", " \u00b0", "-")
    return {f"{gap}{unit}": f"{number}{gap}{unit}" for gap in gaps}


def _as_date(value: str) -> dict[str, str] | None:
    """Return the spellings of a date, by their form."""
    try:
        day = date.fromisoformat(value)
    except ValueError:
        return None
    return dict(_spellings(day))


def _spellings(day: date) -> Iterator[tuple[str, str]]:
    month = day.strftime("%B")
    forms: tuple[Callable[[str], str], ...] = (
        lambda name: f"{day.day} {name} {day.year}",
        lambda name: f"{name} {day.day}, {day.year}",
        lambda name: f"{name} {day.day} {day.year}",
    )
    yield "iso", day.isoformat()
    for number, form in enumerate(forms):
        yield f"long {number}", form(month)
        yield f"short {number}", form(month[:3])
