"""JSON of strangers, parsed within bounds."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from generate.sources.rows import RowError

MAX_DEPTH = 100
"""Of nested objects and lists. Templates and schemas handle what is read by recursion."""

MAX_CONTAINERS, MAX_VALUES = 1 << 23, 1 << 25
"""Of objects and lists, and of values of any kind: in memory an empty list takes 30 times its
length, and a quarter of a megabyte can be compressed from 256 MiB of them."""


def parse_json(text: str) -> Any:  # noqa: ANN401  (JSON has any type)
    """Parse JSON text that can be stored as text again.

    Raises:
        RowError: It is not JSON, nested too deep, has too many values or half a surrogate pair.
    """
    num_opened = text.count("[") + text.count("{")
    if num_opened > MAX_CONTAINERS or num_opened + text.count(",") > MAX_VALUES:
        raise RowError(f"JSON with more than {MAX_CONTAINERS} lists or {MAX_VALUES} values")
    try:
        values = json.loads(text)
        if "\\u" in text:
            # A lone surrogate is valid JSON, but can be neither tokenized nor stored.
            json.dumps(values, ensure_ascii=False).encode()
    except RecursionError as error:
        raise RowError(f"JSON nested more than {MAX_DEPTH} deep") from error
    except ValueError as error:
        raise RowError(f"not JSON: {error}") from error
    if num_opened > MAX_DEPTH:
        _refuse_deep(values)
    return values


def _refuse_deep(values: object) -> None:
    level: list[object] = [values]
    for _ in range(MAX_DEPTH):
        level = [inner for value in level for inner in _inside(value)]
        if not level:
            return
    raise RowError(f"JSON nested more than {MAX_DEPTH} deep")


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
