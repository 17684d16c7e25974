"""A check of bodies before they are parsed: what Python reads as JSON and cannot write again.

Python accepts NaN, numbers beyond a float's range, lone surrogates, and encodings other than UTF-8.
Any of them, anywhere in a body, would fail where the value is encoded, logged, stored or forwarded;
and so would values nested deeper than the recursion that handles them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator

import numpy as np

from serve.errors import InvalidRequestError

MAX_DEPTH = 128
"""Most objects and lists inside each other; pydantic writes 255 of them."""

_SAME_DIGITS = bytes.maketrans(b"123456789E", b"000000000e")
_LONG_NUMBERS = (b"e000", b"e+000", b"0" * 309)
"""What numbers beyond a float's range contain, with all digits the same; few texts do."""
_NO_BRACKETS = re.compile(rb'(?s:"(?:[^"\\]++|\\.)*+"?|[^"\[\]{}]++)')
"""Matches strings, and what stands between them and brackets."""
_LONE_SURROGATE = re.compile(
    rb"""(?s:
      [^\\]++ | \\[^u] | \\u(?![dD][89a-fA-F])
      | \\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}
    )*+ \\u""",
    re.VERBOSE,
)
"""Matches a text with a surrogate's escape that is not half of a pair."""


def check_json(body: bytes) -> None:
    """Refuse a body with values that are not JSON; one that cannot be parsed is left to the parser.

    Raises:
        InvalidRequestError: There is one; `where` names it.
    """
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequestError("the body is not UTF-8", found=str(error)) from None
    if b"\0" in body:
        # Python would take it for UTF-16 or UTF-32.
        raise InvalidRequestError("the body has a null character", expected="JSON in UTF-8")
    if _depth(body) > MAX_DEPTH:
        raise InvalidRequestError(
            "the body is nested too deeply", expected=f"at most {MAX_DEPTH} levels"
        )
    if not (_may_have_infinite_numbers(body) or _has_lone_surrogates(body)):
        return
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return
    for place, value in _values(content):
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidRequestError(
                "JSON has no such number", where=place, expected="a finite number", found=value
            )
        if isinstance(value, str) and not _is_encodable(value):
            raise InvalidRequestError(
                "must be valid Unicode, without lone surrogates", where=place or None
            )


def _may_have_infinite_numbers(body: bytes) -> bool:
    if b"NaN" in body or b"Infinity" in body:
        return True
    digits = body.translate(_SAME_DIGITS)
    return any(number in digits for number in _LONG_NUMBERS)


def _has_lone_surrogates(body: bytes) -> bool:
    has_escapes = rb"\ud" in body or rb"\uD" in body
    return has_escapes and _LONE_SURROGATE.match(body) is not None


def _depth(body: bytes) -> int:
    """Return how many objects and lists are inside each other at most, or an upper bound."""
    num_opened = body.count(b"{") + body.count(b"[")
    if num_opened <= MAX_DEPTH:
        return num_opened
    brackets = np.frombuffer(_NO_BRACKETS.sub(b"", body), np.uint8)
    opens = (brackets == ord("{")) | (brackets == ord("["))
    return int(np.where(opens, 1, -1).cumsum().max(initial=0))


def _values(content: object) -> Iterator[tuple[str, object]]:
    """Yield all values and keys with their places, such as `messages[0].content`."""
    waiting = [("", content)]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, dict):
            for key in value:
                yield place, key
            waiting += [(f"{place}.{key}".removeprefix("."), one) for key, one in value.items()]
        elif isinstance(value, list):
            waiting += [(f"{place}[{number}]", one) for number, one in enumerate(value)]
        else:
            yield place, value


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
