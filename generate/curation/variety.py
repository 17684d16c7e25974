"""How varied texts are, and how balanced categories: the generated ones beside the real ones.

In: texts, and counts by category. Out: their figures. Both measures of variety depend on the number
of texts, so texts are compared in samples of the same size.

Source of distinct-n: Li et al. 2016, "A Diversity-Promoting Objective Function for Neural
Conversation Models" (arXiv:1510.03055), section 5.2: distinct n-grams of words by all n-grams.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from generate.curation.clusters import connected
from generate.curation.similarity import pairs_within

NUM_SAMPLES = 20
"""Random samples of texts over which a figure is averaged."""
MOST_TEXTS = 1000
"""Largest sample: of more texts nearly all are like another."""
NGRAM_WORDS = 3
LEAST_SHARE, MOST_SHARE = 0.5, 2.0
"""Goal of a category's share, as a multiple of its target."""
LEAST_VARIETY = 0.8
"""Goal of both measures of variety, as a multiple of the real texts'."""


@dataclass(frozen=True)
class CategoryShare:
    """How often a category occurs."""

    name: str
    count: int
    share: float
    target: float | None
    """The wanted share; None where none is."""

    @property
    def ratio(self) -> float | None:
        """The share as a multiple of its target."""
        return self.share / self.target if self.target else None

    @property
    def is_balanced(self) -> bool:
        """Whether the share is near its target, or has none."""
        return self.ratio is None or LEAST_SHARE <= self.ratio <= MOST_SHARE


@dataclass(frozen=True)
class Variety:
    """Generated texts beside as many real ones; means over random samples."""

    num_texts: int
    """Texts in a sample."""
    distinct_3: float
    real_distinct_3: float
    num_clusters: float
    real_num_clusters: float

    @property
    def is_varied(self) -> bool:
        """Whether both figures reach 0.8 of the real texts'."""
        return (
            self.distinct_3 >= LEAST_VARIETY * self.real_distinct_3
            and self.num_clusters >= LEAST_VARIETY * self.real_num_clusters
        )


def category_shares(
    counts: Mapping[str, int], targets: Mapping[str, float]
) -> tuple[CategoryShare, ...]:
    """Return the share of each category that occurs or has a target.

    Args:
        targets: Relative wanted shares; empty where none are wanted.
    """
    total, wanted = sum(counts.values()) or 1, sum(targets.values()) or 1.0
    return tuple(
        CategoryShare(
            name=name,
            count=counts.get(name, 0),
            share=counts.get(name, 0) / total,
            target=targets[name] / wanted if name in targets else None,
        )
        for name in dict.fromkeys([*targets, *counts])
    )


def compare_variety(texts: Sequence[str], real: Sequence[str], threshold: float) -> Variety | None:
    """Compare normalized texts with real ones; None when either has none.

    Args:
        threshold: Similarity from which two texts are in one cluster.
    """
    size = min(len(texts), len(real), MOST_TEXTS)
    if not size:
        return None

    def clusters(sample: Sequence[str]) -> float:
        return float(num_clusters(sample, threshold))

    return Variety(
        num_texts=size,
        distinct_3=_mean(distinct_n, texts, size),
        real_distinct_3=_mean(distinct_n, real, size),
        num_clusters=_mean(clusters, texts, size),
        real_num_clusters=_mean(clusters, real, size),
    )


def distinct_n(texts: Sequence[str], n: int = NGRAM_WORDS) -> float:
    """Return the share of distinct ones among all n-grams of words; 0 without any."""
    total = 0
    distinct: set[tuple[str, ...]] = set()
    for text in texts:
        words = text.split()
        ngrams = [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
        total += len(ngrams)
        distinct.update(ngrams)
    return len(distinct) / total if total else 0.0


def num_clusters(texts: Sequence[str], threshold: float) -> int:
    """Return the number of clusters of similar texts, as the splits have them."""
    return len(set(connected(len(texts), pairs_within(texts, threshold))))


def _mean(measure: Callable[[Sequence[str]], float], texts: Sequence[str], size: int) -> float:
    if size == len(texts):
        return measure(texts)
    draw = random.Random(0)
    return fmean(measure(draw.sample(texts, size)) for _ in range(NUM_SAMPLES))
