"""Conversations joined to rows of up to `max_length` tokens, with almost no padding.

In: a split and a seed. Out: a dataset of bins, the same for the same seed, so that a resumed run
has the same rows.
"""

from __future__ import annotations

from bisect import bisect_left, insort

import datasets
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from train.data.batches import Collator, PackedCollator

CONVERSATIONS_PER_GROUP = 1024
"""Bins are filled from random groups of this many conversations: enough to fill them completely,
few enough that the conversations of a row, and so of a step, stay random."""


def pack_split(
    split: datasets.Dataset, collator: Collator, seed: int, *, one_row: bool = False
) -> tuple[datasets.Dataset, PackedCollator]:
    """Return a split as rows of several conversations, and the collator of these rows.

    Args:
        collator: The collator of padded batches.
        seed: Decides which conversations share a row.
        one_row: Whether a batch is to be one row, as flash attention needs it.
    """
    bins = pack(split["length"][:], collator.max_length, seed)
    return bins, PackedCollator(split, collator, one_row)


def pack(lengths: NDArray[np.int32], max_length: int, seed: int) -> datasets.Dataset:
    """Return a dataset of bins: `conversations`, numbers of a split, and their `length` together.

    Args:
        lengths: Tokens of each conversation, `max_length` at most.
        max_length: Tokens that a bin holds.
        seed: Decides which conversations are filled into bins together.
    """
    order = np.random.default_rng(seed).permutation(len(lengths))
    bins = [
        order[start : start + CONVERSATIONS_PER_GROUP][members]
        for start in range(0, len(order), CONVERSATIONS_PER_GROUP)
        for members in best_fit_decreasing(
            lengths[order[start : start + CONVERSATIONS_PER_GROUP]], max_length
        )
    ]
    table = pa.table(
        {
            "conversations": pa.array(bins, pa.list_(pa.int32())),
            "length": pa.array([int(lengths[one].sum()) for one in bins], pa.int32()),
        }
    )
    return datasets.Dataset(table).with_format("numpy")


def best_fit_decreasing(lengths: NDArray[np.int32], capacity: int) -> list[list[int]]:
    """Fill bins, the longest first, each into the fullest bin that has room for it.

    For many conversations it takes at most 11/9 of the fewest bins possible (Johnson et al. 1974,
    "Worst-case performance bounds for simple one-dimensional packing algorithms").

    Args:
        lengths: At most `capacity` each.
    """
    bins: list[list[int]] = []
    rooms: list[tuple[int, int]] = []
    """Space left in each bin, and its number, the fullest first."""
    for index in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[index])
        place = bisect_left(rooms, (length, 0))
        if place == len(rooms):
            bins.append([])
            room, number = capacity, len(bins) - 1
        else:
            room, number = rooms.pop(place)
        bins[number].append(index)
        insort(rooms, (room - length, number))
    return bins
