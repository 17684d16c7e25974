"""A pattern is found in the answer."""

from __future__ import annotations

import re

from potstill.task.answers import Answer, Item, Score
from potstill.task.metrics.config import RegexConfig


class Regex:
    """Searches the answer's text."""

    needs_known = False

    def __init__(self, config: RegexConfig) -> None:
        self.name = config.name or config.kind
        self._pattern = re.compile(config.pattern)

    def score(self, answer: Answer, item: Item) -> Score:  # noqa: ARG002
        """Return 1 where the pattern is found, else 0."""
        return Score(value=float(self._pattern.search(answer.text) is not None))

    def key(self, answer: Answer) -> str | None:
        """Return the text that the pattern matches."""
        found = self._pattern.search(answer.text)
        return None if found is None else found[0]
