"""Prompts of several sources, mixed by weight.

In: the prompts of each source, streamed. Out: so many distinct ones of each, the same on every
machine. Knows nothing of where prompts come from.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from generate.sources.raw_prompt import RawPrompt

DIGEST_BYTES = 16


class KnownPrompts:
    """Tells whether a prompt was met before, in other case, spacing or punctuation as well.

    Only hashes are kept: about 100 bytes a prompt, however long it is.
    """

    def __init__(self) -> None:
        self._digests: set[bytes] = set()

    def __contains__(self, prompt: object) -> bool:
        return isinstance(prompt, RawPrompt) and _digest(prompt) in self._digests

    def add(self, prompt: RawPrompt) -> bool:
        """Remember a prompt; return whether it is new."""
        num_known = len(self._digests)
        self._digests.add(_digest(prompt))
        return len(self._digests) > num_known


@dataclass(frozen=True)
class Pool:
    """What a source has to give."""

    prompts: list[RawPrompt]
    """Its own prompts in an order of no meaning, so many as may be wanted at most."""
    num_read: int
    num_distinct: int
    """How many prompts of its own it has altogether."""


def pool(prompts: Iterable[RawPrompt], most: int, known: KnownPrompts) -> Pool:
    """Read a source to its end, and keep `most` of its prompts at random, as `choose` would.

    Args:
        known: Prompts of earlier sources, which belong to those; this one's are added.
    """
    num_read = num_distinct = 0

    def own() -> Iterator[RawPrompt]:
        nonlocal num_read, num_distinct
        for prompt in prompts:
            num_read += 1
            if known.add(prompt):
                num_distinct += 1
                yield prompt

    kept = heapq.nsmallest(most, own(), key=lambda prompt: prompt.prompt_id)
    return Pool(kept, num_read, num_distinct)


def shares(
    weights: Sequence[float], num_prompts: int, available: Sequence[int | None]
) -> list[int]:
    """Divide a number of prompts between sources in proportion to their weights.

    A source that runs short leaves the rest of its share to the others.

    Args:
        available: Most prompts each source has; None for one that writes as many as it is asked.

    Source: the Webster/Sainte-Laguë method of apportionment; of equal claims the first wins.
    """
    counts = [0] * len(weights)
    limits = [num_prompts if limit is None else limit for limit in available]
    for _ in range(min(num_prompts, sum(limits))):
        claims = [
            weight / (2 * count + 1) if count < limit else 0.0
            for weight, count, limit in zip(weights, counts, limits, strict=True)
        ]
        counts[claims.index(max(claims))] += 1
    return counts


def _digest(prompt: RawPrompt) -> bytes:
    return hashlib.blake2b(prompt.key.encode(), digest_size=DIGEST_BYTES).digest()
