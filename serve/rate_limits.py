"""Limits per minute as token buckets, counted in this process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

SECONDS_PER_MINUTE = 60.0


@dataclass(frozen=True)
class Allowance:
    """The state of a limit."""

    limit: int
    remaining: int
    reset_seconds: float
    """Until the limit is full again."""


class Bucket:
    """A limit per minute that refills evenly: a token bucket.

    Args:
        now: Returns the time in seconds.
    """

    def __init__(self, per_minute: int, now: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._now = now
        self._level = float(per_minute)
        self._updated = now()

    def take(self, amount: int) -> None:
        """Take an amount, even if the level becomes negative."""
        self._fill()
        self._level -= amount

    def seconds_until(self, amount: int) -> float:
        """Return the seconds until an amount is available; 0 if it is."""
        self._fill()
        return max(0.0, amount - self._level) * SECONDS_PER_MINUTE / self.per_minute

    @property
    def allowance(self) -> Allowance:
        """The current state."""
        reset = self.seconds_until(self.per_minute)
        return Allowance(self.per_minute, max(0, math.floor(self._level)), reset)

    def _fill(self) -> None:
        now = self._now()
        gained = (now - self._updated) * self.per_minute / SECONDS_PER_MINUTE
        self._level = min(float(self.per_minute), self._level + gained)
        self._updated = now
