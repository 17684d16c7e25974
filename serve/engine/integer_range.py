"""The integers between two bounds, as a grammar.

In: bounds as a JSON schema gives them. Out: a GBNF expression. Knows nothing of schemas' other
keywords.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
MAX_DIGITS = 16
"""Of an integer without a bound, so that a model cannot run away in digits."""


def integer_range(schema: Mapping[str, Any]) -> str:
    """Return the expression of the integers that a schema's bounds allow.

    Raises:
        ValueError: There are none.
    """
    greatest = 10**MAX_DIGITS - 1
    low = max(
        math.ceil(schema.get("minimum", -greatest)),
        math.floor(schema.get("exclusiveMinimum", -greatest - 1)) + 1,
    )
    high = min(
        math.floor(schema.get("maximum", greatest)),
        math.ceil(schema.get("exclusiveMaximum", greatest + 1)) - 1,
    )
    if low > high:
        raise ValueError(f"no integer is from {low} to {high}")
    parts = []
    if low < 0:
        parts.append(f'"-" ({_natural(max(1, -high), -low)})')
    if high >= 0:
        parts.append(_natural(max(0, low), high))
    return " | ".join(parts)


def _natural(low: int, high: int) -> str:
    """Return the numbers from `low` to `high`, neither of them negative, length by length."""
    return " | ".join(
        _between(
            str(max(low, 10 ** (length - 1) if length > 1 else 0)),
            str(min(high, 10**length - 1)),
        )
        for length in range(len(str(low)), len(str(high)) + 1)
    )


def _between(low: str, high: str) -> str:
    """Return the numbers between two of equal length, with as many digits."""
    if not low:
        return ""
    if low[0] == high[0]:
        return f'"{low[0]}" {_between(low[1:], high[1:])}'
    rest = len(low) - 1
    zeros, nines = "0" * rest, "9" * rest
    first, last = int(low[0]), int(high[0])
    parts = []
    if low[1:] != zeros:
        parts.append(f'"{first}" {_between(low[1:], nines)}')
        first += 1
    if high[1:] != nines:
        parts.append(f'"{last}" {_between(zeros, high[1:])}')
        last -= 1
    if first <= last:
        parts.append(f"[{first}-{last}]" + (f" [0-9]{{{rest}}}" if rest else ""))
    return f"({' | '.join(parts)})"
