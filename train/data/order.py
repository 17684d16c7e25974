"""The order in which conversations are trained on.

In: their lengths, a seed and an epoch. Out: indices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

BATCHES_PER_GROUP = 32
"""Conversations are sorted by length within groups of this many batches: little padding, and the
batches of an epoch are still in random order."""


class SimilarLengths(Sampler[int]):
    """Indices in an order that fills batches with conversations of similar length.

    The order depends on seed and epoch only, so a resumed run sees the same batches.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths = np.asarray(lengths)
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next order."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((self._seed, self._epoch))
        order = random.permutation(len(self._lengths))
        batches: list[NDArray[np.int64]] = []
        for start in range(0, len(order), self._batch_size * BATCHES_PER_GROUP):
            group = order[start : start + self._batch_size * BATCHES_PER_GROUP]
            group = group[np.argsort(-self._lengths[group], kind="stable")]
            batches += np.split(group, range(self._batch_size, len(group), self._batch_size))
        whole = [batch for batch in batches if len(batch) == self._batch_size]
        partial = [batch for batch in batches if len(batch) < self._batch_size]
        random.shuffle(whole)
        for batch in (*whole, *partial):
            yield from batch.tolist()
