"""Changes of JSON and of languages with words, which bytes alone rarely survive."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

DEEP: Any = json.loads("[" * 90 + "]" * 90)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63), 10**40, 0.5, -0.0, 1e-320, 1e308,
    float("nan"), float("inf"), "", " ", "\0", "\ud800", "\u202e", "\U0001f600", "a" * 300,
    "<|im_end|>", "<|im_start|>assistant\n", "<tool_call>", "</think>", "\\u003c|im_end|>", "{",
    "[]", "{}", '{"a": 1}', '{"a": "\\ud800"}', "[" * 200, "1" * 5000, [], {}, [[]], [{}],
    {"": None}, DEEP,
)  # fmt: skip
"""What is put in the place of a value."""
MOST_CHANGES = 4


class JsonMutator:
    """Changes JSON by its structure: with values and keys of the seeds, and with odd ones.

    Args:
        seeds: Directories of inputs.
        head: Whether the first line of an input is not JSON, and stays.
        by_line: Whether each line is a value.
    """

    def __init__(self, seeds: Sequence[Path], *, head: bool = False, by_line: bool = False) -> None:
        self._seeds, self._head, self._by_line = seeds, head, by_line
        self._values: list[Any] = []
        self._keys: list[str] = []
        self._heads: list[bytes] = []

    def __call__(self, data: bytes, _max_size: int, seed: int) -> bytes:
        """Return a changed input."""
        if not self._values:
            self._read_seeds()
        rng = random.Random(seed)
        head, data = self._split(data)
        if self._head and rng.random() < 0.1:
            head = rng.choice(self._heads)
        if not self._by_line:
            return head + self._changed(rng, data)
        lines = data.split(b"\n")
        number = rng.randrange(len(lines))
        lines[number] = self._changed(rng, lines[number])
        if rng.random() < 0.1:
            lines.append(rng.choice(lines))
        return head + b"\n".join(lines)

    def _changed(self, rng: random.Random, text: bytes) -> bytes:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = _copy(rng.choice(self._values))
        for _ in range(rng.randint(1, MOST_CHANGES)):
            value = self._with_one_change(rng, value)
        try:
            written = json.dumps(value, ensure_ascii=rng.random() < 0.7)
        except (ValueError, RecursionError):
            return text
        return written.encode(errors="surrogatepass")

    def _with_one_change(self, rng: random.Random, root: Any) -> Any:
        places = list(_places(root))
        if not places:
            return self._any(rng)
        holder, key = rng.choice(places)
        change = rng.randrange(6)
        if change == 0:
            del holder[key]
        elif change == 1 and isinstance(holder, dict):
            holder[rng.choice(self._keys)] = holder[key]
        elif change == 1:
            holder.insert(key, holder[key])
        elif change == 2 and isinstance(holder[key], str):
            holder[key] = _with_changed_text(rng, holder[key])
        elif change == 3 and isinstance(holder, dict):
            holder[rng.choice(self._keys)] = self._any(rng)
        elif change == 4 and isinstance(holder[key], dict | list):
            holder[key] = json.dumps(holder[key])
        else:
            holder[key] = self._any(rng)
        return root

    def _any(self, rng: random.Random) -> Any:
        chosen = rng.choice(VALUES if rng.random() < 0.5 else self._values)
        return _copy(chosen)

    def _split(self, data: bytes) -> tuple[bytes, bytes]:
        if not self._head:
            return b"", data
        head, _, rest = data.partition(b"\n")
        return head + b"\n", rest

    def _read_seeds(self) -> None:
        for directory in self._seeds:
            for path in sorted(directory.iterdir()):
                head, text = self._split(path.read_bytes())
                self._heads.append(head)
                for line in text.split(b"\n") if self._by_line else [text]:
                    try:
                        value = json.loads(line)
                    except ValueError:
                        continue
                    self._values += [value, *(one[key] for one, key in _places(value))]
                    self._keys += [key for _, key in _places(value) if isinstance(key, str)]
        # In a certain order, so that a seed of the changes stands for them.
        self._keys = sorted(set(self._keys))


class WordMutator:
    """Changes texts of a language by its words.

    Args:
        pattern: Matches one word; what is between matches counts as one too.
        words: Words of the language.
    """

    def __init__(self, pattern: str, words: Sequence[str]) -> None:
        self._pattern = re.compile(f"({pattern})")
        self._words = words

    def __call__(self, data: bytes, _max_size: int, seed: int) -> bytes:
        """Return a changed input."""
        rng = random.Random(seed)
        words = [one for one in self._pattern.split(data.decode(errors="replace")) if one]
        for _ in range(rng.randint(1, MOST_CHANGES)):
            place = rng.randint(0, len(words))
            match rng.randrange(4):
                case 0:
                    words.insert(place, rng.choice(self._words))
                case 1:
                    words[place : place + 1] = []
                case 2:
                    length = rng.randint(1, 8)
                    words[place:place] = words[place : place + length] * rng.choice((1, 2, 30))
                case _:
                    words[place : place + 1] = [rng.choice(self._words)]
        return "".join(words).encode(errors="surrogatepass")


def _copy(value: Any) -> Any:
    """Return a value that can be changed; the known ones would grow without bound."""
    return json.loads(json.dumps(value))


def _with_changed_text(rng: random.Random, text: str) -> str:
    start = rng.randint(0, len(text))
    end = rng.choice((start, min(len(text), start + rng.randint(0, 8))))
    texts: list[str] = [one for one in VALUES if isinstance(one, str)]
    change: Callable[[], str] = rng.choice(
        (lambda: rng.choice(texts), lambda: chr(rng.randrange(0x250)), lambda: text[:start])
    )
    return text[:start] + change() + text[end:]


def _places(root: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every object and list with each of its keys or indices."""
    waiting = [root]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from ((value, key) for key in value)
            waiting += value.values()
        elif isinstance(value, list):
            yield from ((value, number) for number in range(len(value)))
            waiting += value
