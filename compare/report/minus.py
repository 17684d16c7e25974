"""Minus signs in figures for people.

In: text with hyphens. Out: text with minus signs before numbers.
"""

from __future__ import annotations

import re

_BEFORE_NUMBER = re.compile(r"(?<![\w.)\]-])-(?=\.?\d)")


def minus_signs(text: str) -> str:
    """Return a text with a minus sign for each hyphen before a negative number."""
    return _BEFORE_NUMBER.sub("\N{MINUS SIGN}", text)
