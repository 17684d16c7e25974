"""Which categories the attempts of a teacher are for, so that the kept prompts keep their shares.

In: the wanted share of each category, and what earlier rounds have made. Out: a category for each
attempt of the next round, and the chosen prompts.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping

from generate.sources.mix import shares
from generate.sources.raw_prompt import RawPrompt
from generate.teachers.protocol import derive_seed

MAX_ATTEMPTS_PER_PROMPT = 4
"""A category that needs more attempts is exhausted: the others get its share."""


class Balance:
    """Plans the attempts of a writer.

    Args:
        weights: Relative share of each category.
        count: Number of prompts of all categories.
    """

    def __init__(self, weights: Mapping[str, float], count: int, seed: int) -> None:
        self._names = list(weights)
        self._weights = [weights[name] for name in self._names]
        self._count, self._seed = count, seed
        self._category: dict[int, str] = {}
        self._first_targets = self._targets([None] * len(self._names))

    def category(self, number: int) -> str:
        """Return what an attempt is for."""
        return self._category[number]

    def plan(self, numbers: range, made: Mapping[int, RawPrompt]) -> None:
        """Assign categories to a round of attempts, in proportion to what is missing."""
        have, targets = self._have(made), self._open_targets(made)
        missing = [
            float(max(target - have[name], 0))
            for name, target in zip(self._names, targets, strict=True)
        ]
        counts = shares(missing, len(numbers), [None if one else 0 for one in missing])
        planned = [
            name for name, count in zip(self._names, counts, strict=True) for _ in range(count)
        ]
        random.Random(derive_seed(self._seed, f"balance {numbers.start}")).shuffle(planned)
        self._category |= dict(zip(numbers, planned, strict=True))

    def choose(self, made: Mapping[int, RawPrompt]) -> list[RawPrompt]:
        """Return the first prompts of each category up to its share, in their order."""
        targets = dict(zip(self._names, self._open_targets(made), strict=True))
        taken: Counter[str] = Counter()
        chosen = []
        for number, prompt in sorted(made.items()):
            name = self._category[number]
            if taken[name] < targets[name]:
                taken[name] += 1
                chosen.append(prompt)
        return chosen

    def _open_targets(self, made: Mapping[int, RawPrompt]) -> list[int]:
        """Return the number of prompts for each category; an exhausted one gets what it has."""
        have, tried = self._have(made), Counter(self._category.values())
        limits = [
            have[name]
            if have[name] < target and tried[name] >= MAX_ATTEMPTS_PER_PROMPT * target
            else None
            for name, target in zip(self._names, self._first_targets, strict=True)
        ]
        return self._targets(limits if None in limits else [None] * len(limits))

    def _targets(self, limits: list[int | None]) -> list[int]:
        return shares(self._weights, self._count, limits)

    def _have(self, made: Mapping[int, RawPrompt]) -> Counter[str]:
        return Counter(self._category[number] for number in made)
