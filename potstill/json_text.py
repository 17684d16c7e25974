"""JSON that models and strangers write, parsed as what can be written again."""

from __future__ import annotations

import json
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
