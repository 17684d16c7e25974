"""The answer's fields are the known answer's: exactly, as F1, or without invented ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from potstill.json_text import parse_json
from potstill.task.answers import Answer, Item, Score, canonical, folded
from potstill.task.metrics.config import FieldsConfig


class Fields:
    """Compares two records field by field.

    A field is a value that is neither an object nor a list, at its dotted path; the entries of a
    list share a path, so their order does not count. null, an empty list and an empty object are
    the same as absent.
    """

    needs_known = True

    def __init__(self, config: FieldsConfig) -> None:
        self.name = config.name or config.kind
        self._config = config

    def score(self, answer: Answer, item: Item) -> Score:
        """Return the average over fields; an answer that is not JSON scores 0."""
        try:
            expected = self._fields(item.known.text if item.known else "")
        except ValueError as error:
            return Score(value=0.0, problem=f"the known answer is not JSON: {error}")
        try:
            found = self._fields(answer.text)
        except ValueError as error:
            return Score(value=0.0, problem=f"not JSON: {error}")
        missing, surplus = expected - found, found - expected
        if self._config.average == "none_invented":
            invented = _paths(found) - _paths(expected)
            problem = f"invented: {', '.join(sorted(invented))}"[:200] if invented else None
            return Score(value=float(not invented), problem=problem)
        value = _f1(expected, found)
        if self._config.average == "exact":
            value = float(not missing and not surplus)
        return Score(value=value, problem=_problem(missing, surplus))

    def key(self, answer: Answer) -> str | None:
        """Return the fields in one spelling; None for an answer that is not JSON."""
        try:
            return canonical(sorted(self._fields(answer.text).elements()))
        except ValueError:
            return None

    def _fields(self, text: str) -> Counter[tuple[str, str]]:
        chosen = self._config.fields
        return Counter(
            (path, self._plain(value))
            for path, value in leaves(parse_json(text))
            if not chosen or any(path == one or path.startswith(f"{one}.") for one in chosen)
        )

    def _plain(self, value: object) -> str:
        if isinstance(value, str) and self._config.ignore_case:
            value = folded(value)
        return canonical(value)


def leaves(content: object, path: str = "") -> list[tuple[str, object]]:
    """Return the plain values inside a JSON value with their dotted paths; null is left out."""
    if isinstance(content, Mapping):
        inner = [(f"{path}.{key}" if path else str(key), value) for key, value in content.items()]
    elif isinstance(content, Sequence) and not isinstance(content, str):
        inner = [(path, value) for value in content]
    else:
        return [] if content is None else [(path, content)]
    return [leaf for where, value in inner for leaf in leaves(value, where)]


def _paths(fields: Counter[tuple[str, str]]) -> Counter[str]:
    return Counter(path for path, _ in fields.elements())


def _f1(expected: Counter[tuple[str, str]], found: Counter[tuple[str, str]]) -> float:
    total = expected.total() + found.total()
    return 2 * (expected & found).total() / total if total else 1.0


def _problem(missing: Counter[tuple[str, str]], surplus: Counter[tuple[str, str]]) -> str | None:
    parts = [
        f"{word} {', '.join(sorted({path or 'the value' for path, _ in fields}))}"
        for word, fields in (("missing or wrong:", missing), ("not in the known answer:", surplus))
        if fields
    ]
    return "; ".join(parts)[:200] or None
