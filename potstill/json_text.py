"""JSON that models and strangers write, parsed as what can be written again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


def parse_json(text: str) -> Any:  # noqa: ANN401  (any JSON value)
    """Return the JSON value of a text, which may have white space around it.

    Raises:
        ValueError: It is not one JSON value, nests too deeply, or has what Python reads and cannot
            write: NaN, numbers beyond a float's range, or half a surrogate pair.
    """
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return value


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
    elif isinstance(content, dict | list):
        values = content.values() if isinstance(content, dict) else content
        for value in values:
            yield from _texts_of(value)
