"""Mix the prompts of several sources by weight.

In: a stream of prompts per source. Out: distinct prompts of each, the same on every machine.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from generate.sources.raw_prompt import RawPrompt

DIGEST_BYTES = 16


class KnownPrompts:
    """A set of prompts; those that differ only in case, spacing or punctuation are equal.

    Only hashes are kept, about 100 bytes per prompt.
    """

    def __init__(self) -> None:
        self._digests: set[bytes] = set()

    def __contains__(self, prompt: object) -> bool:
        return isinstance(prompt, RawPrompt) and _digest(prompt) in self._digests

    def add(self, prompt: RawPrompt) -> bool:
        """Add a prompt; return whether it is new."""
        num_known = len(self._digests)
        self._digests.add(_digest(prompt))
        return len(self._digests) > num_known


@dataclass(frozen=True)
class Pool:
    """The prompts of a source."""

    prompts: list[RawPrompt]
    """A random subset of its own prompts, as many as may be needed."""
    num_read: int
    num_distinct: int
    """Number of all its own prompts."""


def pool(prompts: Iterable[RawPrompt], most: int, known: KnownPrompts) -> Pool:
    """Read a whole source, and keep a random `most` of its prompts, as `choose` does.

    Args:
        known: Prompts of earlier sources, which are skipped; this one's are added.
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
    """Divide a number of prompts among sources in proportion to their weights.

    If a source runs short, the others fill its share.

    Args:
        available: Number of prompts of each source; None for one without limit.

    Source: the Webster/Sainte-Laguë method of apportionment; the first of equal claims wins.
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
