"""A check of bodies before they are parsed: what Python reads as JSON and cannot write again.

Python accepts NaN, numbers beyond a float's range, lone surrogates, and encodings other than UTF-8.
Any of them, anywhere in a body, would fail where the value is encoded, logged, stored or forwarded;
and so would values nested deeper than the recursion that handles them. Values are counted before
they are parsed: nothing else runs while a million of them become objects.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from serve.errors import InvalidRequestError

MAX_DEPTH = 128
"""Most objects and lists inside each other; pydantic writes 255 of them."""

MAX_CONTAINERS = 1 << 15
"""Most objects and lists: 4,096 messages of a part each have 12,289. One takes up to 4 us."""
MAX_VALUES = 1 << 19
"""Most values of any kind: token ids, of which OpenAI takes 300,000 in one request."""

_SAME_DIGITS = bytes.maketrans(b"123456789E", b"000000000e")
_LONG_NUMBERS = (b"e000", b"e+000", b"0" * 309)
"""What numbers beyond a float's range contain, with all digits the same; few texts do."""
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
    _check_structure(body)
    if not (_may_have_infinite_numbers(body) or _has_lone_surrogates(body)):
        return
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return
    _check_values(content, [])


def _may_have_infinite_numbers(body: bytes) -> bool:
    if b"NaN" in body or b"Infinity" in body:
        return True
    digits = body.translate(_SAME_DIGITS)
    return any(number in digits for number in _LONG_NUMBERS)


def _has_lone_surrogates(body: bytes) -> bool:
    has_escapes = rb"\ud" in body or rb"\uD" in body
    return has_escapes and _LONE_SURROGATE.match(body) is not None


def _check_structure(body: bytes) -> None:
    """Refuse too many values, and too many inside each other."""
    num_opened = body.count(b"{") + body.count(b"[")
    if num_opened <= MAX_DEPTH and num_opened + body.count(b",") <= MAX_VALUES:
        return
    outside = _outside_strings(body)
    opens = (outside == ord("{")) | (outside == ord("["))
    closes = (outside == ord("}")) | (outside == ord("]"))
    num_opened = int(np.count_nonzero(opens))
    num_values = num_opened + int(np.count_nonzero(outside == ord(",")))
    if num_opened > MAX_CONTAINERS or num_values > MAX_VALUES:
        raise InvalidRequestError(
            "the body has too many values",
            expected=f"at most {MAX_CONTAINERS} objects and lists, and {MAX_VALUES} values",
            found=f"{num_opened} and {num_values}",
        )
    depths = np.where(opens, 1, -1)[opens | closes].cumsum()
    if depths.max(initial=0) > MAX_DEPTH:
        raise InvalidRequestError(
            "the body is nested too deeply", expected=f"at most {MAX_DEPTH} levels"
        )


def _outside_strings(body: bytes) -> npt.NDArray[np.uint8]:
    """Return the bytes of JSON outside its strings, at the same speed however many."""
    plain = body.replace(rb"\\", b"").replace(rb"\"", b"") if b"\\" in body else body
    given = np.frombuffer(plain, np.uint8)
    is_inside = np.logical_xor.accumulate(given == ord('"'))
    outside: npt.NDArray[np.uint8] = given[~is_inside]
    return outside


def _check_values(value: object, place: list[str]) -> None:
    """Refuse the first value that cannot be written.

    Args:
        place: The names that lead to it; the same list within each other.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidRequestError(
            "JSON has no such number",
            where=_spelled(place),
            expected="a finite number",
            found=value,
        )
    if isinstance(value, str) and not _is_encodable(value):
        raise _not_unicode(place)
    if isinstance(value, dict) and not all(map(_is_encodable, value)):
        raise _not_unicode(place)
    for name, inner in _parts(value):
        place.append(name)
        _check_values(inner, place)
        place.pop()


def _parts(value: object) -> Iterator[tuple[str, object]]:
    """Yield what is inside a value, and its name."""
    if isinstance(value, dict):
        yield from ((f".{key}", inner) for key, inner in value.items())
    elif isinstance(value, list):
        yield from ((f"[{number}]", inner) for number, inner in enumerate(value))


def _not_unicode(place: list[str]) -> InvalidRequestError:
    return InvalidRequestError(
        "must be valid Unicode, without lone surrogates", where=_spelled(place)
    )


def _spelled(place: list[str]) -> str | None:
    return "".join(place).removeprefix(".") or None


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
