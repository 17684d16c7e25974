"""Scores of pairs, checked, and their sums by cluster.

In: bounded values, one per pair, and the cluster of each. Out: numpy arrays.

Shape legend: N values, G clusters.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from potstill.errors import PotstillError

Floats = NDArray[np.float64]


def checked_values(values: ArrayLike, bounds: tuple[float, float] = (0.0, 1.0)) -> Floats:
    """Return the values as an array of shape [N].

    Raises:
        PotstillError: There are none, they are not a list of numbers, or one is out of bounds.
    """
    values_N = np.asarray(values, dtype=np.float64)
    if values_N.ndim != 1 or values_N.size == 0:
        raise PotstillError(
            "a mean needs a list of values",
            expected="one dimension, at least one value",
            found=f"shape {values_N.shape}",
        )
    outside_N = ~((values_N >= bounds[0]) & (values_N <= bounds[1]))
    if outside_N.any():
        row = int(np.argmax(outside_N))
        raise PotstillError(
            "a value is out of bounds",
            where=f"row {row}",
            expected=f"{bounds[0]:g} to {bounds[1]:g}",
            found=values_N[row],
        )
    return values_N


def cluster_sums(values_N: Floats, clusters: Sequence[Hashable] | None) -> tuple[Floats, Floats]:
    """Return the sum and the number of values of each cluster, in order of first appearance.

    Raises:
        PotstillError: Not one cluster per value.
    """
    if clusters is None:
        return values_N, np.ones_like(values_N)
    if len(clusters) != len(values_N):
        raise PotstillError(
            "not one cluster per value", expected=len(values_N), found=len(clusters)
        )
    numbers: dict[Hashable, int] = {}
    cluster_N = np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters])
    sums_G = np.bincount(cluster_N, values_N).astype(np.float64)
    return sums_G, np.bincount(cluster_N).astype(np.float64)
