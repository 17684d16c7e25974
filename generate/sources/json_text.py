"""JSON of strangers, parsed within bounds."""

from __future__ import annotations

import json
from typing import Any

from generate.sources.rows import RowError
from potstill.json_text import MAX_DEPTH, require_shallow

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
        if num_opened > MAX_DEPTH:
            require_shallow(values)
        if "\\u" in text:
            # A lone surrogate is valid JSON, but can be neither tokenized nor stored.
            json.dumps(values, ensure_ascii=False).encode()
    except RecursionError as error:
        raise RowError(f"JSON nested more than {MAX_DEPTH} deep") from error
    except ValueError as error:
        raise RowError(f"not JSON: {error}") from error
    return values
