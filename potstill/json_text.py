"""JSON that models and strangers write, parsed as what can be written again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

MAX_DEPTH = 100
"""Of nested objects and lists: templates and schemas handle what is read by recursion, and from
Python 3.12 on its parser reads deeper values than that can."""


def parse_json(text: str) -> Any:  # noqa: ANN401  (any JSON value)
    """Return the JSON value of a text, which may have white space around it.

    Raises:
        ValueError: It is not one JSON value, nests too deeply, or has what Python reads and cannot
            write: NaN, numbers beyond a float's range, or half a surrogate pair.
    """
    try:
        value = json.loads(text)
        if text.count("[") + text.count("{") > MAX_DEPTH:
            require_shallow(value)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return value


def require_shallow(value: object) -> None:
    """Check the depth of a JSON value.

    Raises:
        RecursionError: It nests more than `MAX_DEPTH` objects and lists, as if Python could not.
    """
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for value in level for inner in _inside(value)]
        if not level:
            return
    raise RecursionError(f"nested more than {MAX_DEPTH} deep")


def parse_object(text: str) -> dict[str, Any]:
    """Return the JSON object of a text; an empty one for all other texts."""
    try:
        value = parse_json(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def texts_in(text: str) -> Iterator[str]:
    """Yield the texts that stand in a JSON value, without its keys; what is no JSON, as it is."""
    try:
        yield from _texts_of(parse_json(text))
    except ValueError:
        yield text


def _texts_of(content: object) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    for value in _inside(content):
        yield from _texts_of(value)


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
