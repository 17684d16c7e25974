"""Find similar texts: candidates by MinHash, confirmed by their exact similarity.

In: texts. Out: pairs of positions with the Jaccard similarity of their shingles. A pair may be
missed (see `NUM_BANDS`), but all reported pairs reach the threshold.

Shapes: N texts, H hashes of a signature, P pairs.

Source: Broder 1997, "On the resemblance and containment of documents"; Leskovec, Rajaraman and
Ullman, "Mining of Massive Datasets", section 3.4 (bands). Signatures: rensa's R-MinHash.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

SHINGLE_CHARACTERS = 5
"""Characters of a shingle: most of a word in any script, so that a changed ending keeps most
shingles."""
NUM_BANDS, BAND_ROWS = 48, 4
"""A pair of similarity s shares a band with probability 1 - (1 - s^4)^48: 0.954 at s = 0.5, 0.9987
at 0.6, more than 0.999999 at 0.75."""
NUM_HASHES = NUM_BANDS * BAND_ROWS
WINDOW = 64
"""Neighbors of equal hash that a text is compared with in each band: a bound, so that many texts of
one template do not take quadratic time."""
MARGIN = 0.18
"""Candidates whose estimate is this far below the threshold are skipped: five standard deviations
of an estimate from 192 hashes."""
BATCH = 8192
"""Texts or pairs per batch."""

Signatures = NDArray[np.uint32]
Positions = NDArray[np.int64]


class Pair(NamedTuple):
    """Positions of two similar texts, and the Jaccard similarity of their shingles."""

    first: int
    second: int
    similarity: float


def shingles(text: str) -> set[str]:
    """Return all runs of 5 characters of a normalized text, with a space added at both ends.

    An empty text has none.
    """
    if not text:
        return set()
    text = f" {text} "
    starts = range(max(1, len(text) - SHINGLE_CHARACTERS + 1))
    return {text[start : start + SHINGLE_CHARACTERS] for start in starts}


def jaccard(first: set[str], second: set[str]) -> float:
    """Return the Jaccard similarity of two sets, 0 for empty sets."""
    common = len(first & second)
    return common / max(1, len(first) + len(second) - common)


def pairs_within(texts: Sequence[str], threshold: float, *, seed: int = 1) -> list[Pair]:
    """Return the pairs of normalized texts whose similarity reaches the threshold, in order.

    Args:
        seed: Another seed misses other pairs.
    """
    hashes_NH = _signatures(texts, seed)
    bands = (
        _neighbors(_band(hashes_NH, band), _band(hashes_NH, band + 1)) for band in range(NUM_BANDS)
    )
    candidates_P2 = _promising(bands, hashes_NH, hashes_NH, threshold)
    return list(_verified(texts, texts, candidates_P2, threshold))


def pairs_between(
    texts: Sequence[str], references: Sequence[str], threshold: float, *, seed: int = 1
) -> list[Pair]:
    """Return the pairs of a text and a reference whose similarity reaches the threshold, in order.

    Args:
        seed: Another seed misses other pairs.
    """
    hashes_NH, others_NH = _signatures(texts, seed), _signatures(references, seed)
    bands = (_matches(_band(hashes_NH, band), _band(others_NH, band)) for band in range(NUM_BANDS))
    candidates_P2 = _promising(bands, hashes_NH, others_NH, threshold)
    return list(_verified(texts, references, candidates_P2, threshold))


def _signatures(texts: Sequence[str], seed: int) -> Signatures:
    hashes_NH = np.empty((len(texts), NUM_HASHES), dtype=np.uint32)
    for start in range(0, len(texts), BATCH):
        sets = [sorted(shingles(text)) for text in texts[start : start + BATCH]]
        hashes_NH[start : start + len(sets)] = RMinHash.digests_from_token_sets(
            sets, NUM_HASHES, seed
        )
    return hashes_NH


def _band(hashes_NH: Signatures, band: int) -> NDArray[np.uint64]:
    """Return one number [N] for each text's rows of a band, cyclically."""
    start = band % NUM_BANDS * BAND_ROWS
    rows_NR = hashes_NH[:, start : start + BAND_ROWS].astype(np.uint64)
    # Odd multipliers combine the four rows into one number with few collisions.
    return rows_NR @ np.array(
        [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93],
        dtype=np.uint64,
    )


def _neighbors(
    keys_N: NDArray[np.uint64], next_keys_N: NDArray[np.uint64]
) -> tuple[Positions, Positions]:
    """Return the positions [P] of pairs of equal key, smaller first.

    Texts that also share the next band are adjacent, so that the window reaches them first.
    """
    order_N = np.lexsort((next_keys_N, keys_N))
    keys_N = keys_N[order_N]
    firsts, seconds = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for distance in range(1, min(WINDOW, len(keys_N) - 1) + 1):
        (equal_P,) = np.nonzero(keys_N[distance:] == keys_N[:-distance])
        if not len(equal_P):
            break
        one_P, other_P = order_N[equal_P], order_N[equal_P + distance]
        firsts.append(np.minimum(one_P, other_P))
        seconds.append(np.maximum(one_P, other_P))
    return np.concatenate(firsts), np.concatenate(seconds)


def _matches(
    keys_N: NDArray[np.uint64], reference_keys_N: NDArray[np.uint64]
) -> tuple[Positions, Positions]:
    """Return the positions [P] of texts and of references of equal key."""
    order_N = np.argsort(reference_keys_N, kind="stable")
    sorted_N = reference_keys_N[order_N]
    left_N = np.searchsorted(sorted_N, keys_N, side="left")
    counts_N = np.minimum(np.searchsorted(sorted_N, keys_N, side="right") - left_N, WINDOW)
    firsts_P = np.repeat(np.arange(len(keys_N)), counts_N)
    before_P = np.repeat(np.cumsum(counts_N) - counts_N, counts_N)
    ranks_P = np.repeat(left_N, counts_N) + np.arange(len(firsts_P)) - before_P
    return firsts_P, order_N[ranks_P]


def _promising(
    bands: Iterable[tuple[Positions, Positions]],
    hashes_NH: Signatures,
    others_NH: Signatures,
    threshold: float,
) -> Positions:
    """Return the candidates [P, 2] whose estimated similarity is near the threshold or above."""
    width = max(1, len(others_NH))
    codes_P = np.empty(0, dtype=np.int64)
    for firsts_P, seconds_P in bands:
        near = []
        for start in range(0, len(firsts_P), BATCH):
            batch = slice(start, start + BATCH)
            equal_PH = hashes_NH[firsts_P[batch]] == others_NH[seconds_P[batch]]
            near.append(equal_PH.mean(axis=1) >= threshold - MARGIN)
        near_P = np.concatenate([np.empty(0, dtype=np.bool_), *near])
        codes_P = np.union1d(codes_P, firsts_P[near_P] * width + seconds_P[near_P])
    return np.stack(np.divmod(codes_P, width), axis=1)


def _verified(
    texts: Sequence[str], others: Sequence[str], pairs_P2: Positions, threshold: float
) -> Iterator[Pair]:
    last, last_shingles = -1, set[str]()
    for first, second in pairs_P2.tolist():
        if first != last:
            last, last_shingles = first, shingles(texts[first])
        similarity = jaccard(last_shingles, shingles(others[second]))
        if similarity >= threshold:
            yield Pair(first, second, similarity)
