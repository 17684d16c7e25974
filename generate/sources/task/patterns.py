"""Random texts that match a regular expression.

In: an expression of JSON Schema's `pattern`. Out: a text it matches. Supported: literals, classes,
escapes, groups, alternatives, repetitions and anchors; lookarounds and back-references are not.
"""

from __future__ import annotations

import random
import re
import string

MOST_REPEATED = 6
"""Longest repetition where the expression sets no limit."""
ESCAPED = {
    "d": string.digits,
    "w": string.ascii_letters + string.digits,
    "s": " ",
    "D": string.ascii_letters,
    "W": "-./",
    "S": string.ascii_letters + string.digits,
}
ANY = string.ascii_letters + string.digits
REPETITION = re.compile(r"\{(\d*)(,?)(\d*)\}")
SIGNS = {"*": (0, MOST_REPEATED), "+": (1, MOST_REPEATED), "?": (0, 1)}


def matching_text(pattern: str, draw: random.Random) -> str:
    """Return a random text in which the pattern is found.

    Raises:
        ValueError: The pattern is not a regular expression, or has parts that are not supported.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    text = _Reader(pattern, draw).read()
    if not compiled.search(text):
        raise ValueError("a regular expression with unsupported parts")
    return text


class _Reader:
    """Reads an expression once from left to right, and writes a text for it."""

    def __init__(self, pattern: str, draw: random.Random) -> None:
        self._pattern, self._draw, self._at = pattern, draw, 0

    def read(self) -> str:
        alternatives = [""]
        while self._at < len(self._pattern) and self._pattern[self._at] != ")":
            if self._pattern[self._at] == "|":
                self._at += 1
                alternatives.append("")
            else:
                alternatives[-1] += self._repeated()
        return self._draw.choice(alternatives)

    def _repeated(self) -> str:
        start = self._at
        once = self._one()
        end = self._at
        low, high = self._limits()
        after = self._at
        texts = []
        for _ in range(self._draw.randint(low, high)):
            self._at = start
            texts.append(self._one())
        self._at = after
        return once if after == end else "".join(texts)

    def _limits(self) -> tuple[int, int]:
        sign = self._pattern[self._at : self._at + 1]
        found = REPETITION.match(self._pattern, self._at)
        low, high = 1, 1
        if sign in SIGNS and sign:
            low, high = SIGNS[sign]
            self._at += 1
        elif found:
            low = int(found[1] or 0)
            high = int(found[3]) if found[3] else (low + MOST_REPEATED if found[2] else low)
            self._at = found.end()
        else:
            return low, high
        if self._pattern[self._at : self._at + 1] in {"?", "+"}:  # Lazy or possessive.
            self._at += 1
        return low, high

    def _one(self) -> str:
        letter = self._next()
        if letter == "(":
            if self._pattern.startswith("?:", self._at):
                self._at += 2
            elif self._pattern.startswith("?", self._at):
                raise ValueError("a regular expression with unsupported parts")
            text = self.read()
            self._at += 1
            return text
        if letter == "[":
            return self._draw.choice(self._class())
        if letter == "\\":
            return self._escape()
        if letter == ".":
            return self._draw.choice(ANY)
        return "" if letter in "^$" else letter

    def _escape(self) -> str:
        letter = self._next()
        if letter in "bBAZ":
            return ""
        return self._draw.choice(ESCAPED.get(letter, letter))

    def _class(self) -> str:
        is_negated = self._pattern.startswith("^", self._at)
        self._at += is_negated
        letters = ""
        while (letter := self._next()) != "]" or not letters:
            if letter == "\\":
                escaped = self._next()
                letters += ESCAPED.get(escaped, escaped)
            elif letter == "-" and letters and not self._pattern.startswith("]", self._at):
                last = self._next()
                letters += "".join(map(chr, range(ord(letters[-1]) + 1, ord(last) + 1)))
            else:
                letters += letter
        return "".join(one for one in ANY if one not in letters) if is_negated else letters

    def _next(self) -> str:
        letter = self._pattern[self._at]
        self._at += 1
        return letter
