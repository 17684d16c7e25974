"""Prompts of several sources, mixed by weight.

In: the prompts of each source. Out: so many distinct ones, the same on every machine.
Knows nothing of where prompts come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from generate.prompts import RawPrompt, choose


def mix(sources: Sequence[tuple[float, Iterable[RawPrompt]]], num_prompts: int) -> list[RawPrompt]:
    """Take distinct prompts from each source in proportion to its weight.

    Their order has no meaning and is the same on every machine. A source that runs
    short leaves the rest of its share to the others.

    Args:
        sources: Weight and prompts of each.
        num_prompts: How many to take; fewer when there are fewer.
    """
    own = distinct_between([prompts for _, prompts in sources])
    counts = shares([weight for weight, _ in sources], num_prompts, [len(one) for one in own])
    taken: list[RawPrompt] = []
    for prompts, count in zip(own, counts, strict=True):
        taken += choose(prompts, count)
    return choose(taken, len(taken))


def distinct_between(sources: Sequence[Iterable[RawPrompt]]) -> list[list[RawPrompt]]:
    """Return each source's distinct prompts; one that several have belongs to the first of them."""
    seen: set[str] = set()
    own: list[list[RawPrompt]] = []
    for prompts in sources:
        own.append([])
        for prompt in prompts:
            if (key := prompt.key) not in seen:
                seen.add(key)
                own[-1].append(prompt)
    return own


def shares(
    weights: Sequence[float], num_prompts: int, available: Sequence[int | None]
) -> list[int]:
    """Divide a number of prompts between sources in proportion to their weights.

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
