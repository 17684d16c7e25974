"""The best type of each tensor within a number of bytes."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """A type that a tensor may have.

    Attributes:
        kl_nats: KL of the whole model when all other tensors are exact.
    """

    type: str
    num_bytes: int
    kl_nats: float


def choose(options: Mapping[str, Sequence[Option]], max_bytes: int) -> dict[str, Option]:
    """Return one option for each tensor, with the lowest sum of KL that fits the bytes.

    KL is quadratic in small errors, and errors of different tensors are independent, so the sum
    approximates the whole. Among options on the lower convex hull, the step that saves the most KL
    per byte is taken first, which is the choice of a Lagrange multiplier for the bytes (Everett
    1963). Steps that no longer fit are skipped for smaller ones.

    Raises:
        ValueError: Even the smallest options take more bytes.
    """
    hulls = {name: _lower_hull(of_tensor) for name, of_tensor in options.items()}
    chosen = {name: hull[0] for name, hull in hulls.items()}
    left = max_bytes - sum(option.num_bytes for option in chosen.values())
    if left < 0:
        raise ValueError(f"the smallest options take {-left} bytes more than {max_bytes}")
    steps = [(_gain(*hull[:2]), name, 1) for name, hull in hulls.items() if len(hull) > 1]
    heap = [(-gain, name, index) for gain, name, index in steps]
    heapq.heapify(heap)
    while heap:
        _, name, index = heapq.heappop(heap)
        hull = hulls[name]
        step_bytes = hull[index].num_bytes - chosen[name].num_bytes
        if step_bytes > left:
            continue
        left -= step_bytes
        chosen[name] = hull[index]
        if index + 1 < len(hull):
            gain = _gain(hull[index], hull[index + 1])
            heapq.heappush(heap, (-gain, name, index + 1))
    return chosen


def total(chosen: Iterable[Option]) -> tuple[int, float]:
    """Return the bytes and the KL, in nats, of chosen options."""
    listed = list(chosen)
    return sum(one.num_bytes for one in listed), sum(one.kl_nats for one in listed)


def _gain(smaller: Option, larger: Option) -> float:
    return (smaller.kl_nats - larger.kl_nats) / (larger.num_bytes - smaller.num_bytes)


def _lower_hull(options: Sequence[Option]) -> list[Option]:
    """Return the options on the lower convex hull of KL over bytes, smallest first."""
    hull: list[Option] = []
    for option in sorted(options, key=lambda one: (one.num_bytes, one.kl_nats)):
        if hull and option.kl_nats >= hull[-1].kl_nats:
            continue
        while len(hull) > 1 and _gain(hull[-1], option) >= _gain(hull[-2], hull[-1]):
            hull.pop()
        hull.append(option)
    return hull
