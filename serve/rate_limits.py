"""Limits per minute as token buckets, counted in this process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

SECONDS_PER_MINUTE = 60.0


@dataclass(frozen=True)
class Allowance:
    """What is left of a limit."""

    limit: int
    remaining: int
    reset_seconds: float
    """Until all of the limit is there again."""


class Bucket:
    """A limit per minute that fills up evenly: a token bucket.

    Args:
        now: The time in seconds.
    """

    def __init__(self, per_minute: int, now: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._now = now
        self._level = float(per_minute)
        self._updated = now()

    def take(self, amount: int) -> None:
        """Take out, below nothing if need be."""
        self._fill()
        self._level -= amount

    def seconds_until(self, amount: int) -> float:
        """Return how long it takes until so much is there; 0 when it is."""
        self._fill()
        return max(0.0, amount - self._level) * SECONDS_PER_MINUTE / self._per_minute

    @property
    def allowance(self) -> Allowance:
        """What is left."""
        reset = self.seconds_until(self._per_minute)
        return Allowance(self._per_minute, max(0, math.floor(self._level)), reset)

    def _fill(self) -> None:
        now = self._now()
        gained = (now - self._updated) * self._per_minute / SECONDS_PER_MINUTE
        self._level = min(float(self._per_minute), self._level + gained)
        self._updated = now
