"""JSON of strangers, parsed within bounds."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from generate.sources.rows import RowError

MAX_DEPTH = 100
"""Of nested objects and lists. Templates and schemas handle what is read by recursion."""


def parse_json(text: str) -> Any:  # noqa: ANN401  (JSON has any type)
    """Parse JSON text that can be stored as text again.

    Raises:
        RowError: It is not JSON, nested too deep, or has half a surrogate pair.
    """
    try:
        values = json.loads(text)
        if "\\u" in text:
            # A lone surrogate is valid JSON, but can be neither tokenized nor stored.
            json.dumps(values, ensure_ascii=False).encode()
    except RecursionError as error:
        raise RowError(f"JSON nested more than {MAX_DEPTH} deep") from error
    except ValueError as error:
        raise RowError(f"not JSON: {error}") from error
    if text.count("[") + text.count("{") > MAX_DEPTH:
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
