"""Limits per minute or day as token buckets, counted in this process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

SECONDS_PER_MINUTE = 60.0
SECONDS_PER_DAY = 86_400.0


@dataclass(frozen=True)
class Allowance:
    """The state of a limit."""

    limit: int
    remaining: int
    reset_seconds: float
    """Until the limit is full again."""


class Bucket:
    """A limit per period that refills evenly: a token bucket.

    Args:
        limit: The most that a period has.
        now: Returns the time in seconds.
        seconds: Length of the period.
    """

    def __init__(
        self,
        limit: int,
        now: Callable[[], float] = time.monotonic,
        seconds: float = SECONDS_PER_MINUTE,
    ) -> None:
        self.limit, self.seconds = limit, seconds
        self._now = now
        self._level = float(limit)
        self._updated = now()

    def take(self, amount: float) -> None:
        """Take an amount, even if the level becomes negative."""
        self._fill()
        self._level -= amount

    def resize(self, limit: int) -> None:
        """Change the limit; what was taken stays taken."""
        self._fill()
        self._level += limit - self.limit
        self.limit = limit

    def seconds_until(self, amount: int) -> float:
        """Return the seconds until an amount is available; 0 if it is."""
        self._fill()
        return max(0.0, amount - self._level) * self.seconds / self.limit

    @property
    def allowance(self) -> Allowance:
        """The current state."""
        reset = self.seconds_until(self.limit)
        return Allowance(self.limit, max(0, math.floor(self._level)), reset)

    def _fill(self) -> None:
        now = self._now()
        gained = (now - self._updated) * self.limit / self.seconds
        self._level = min(float(self.limit), self._level + gained)
        self._updated = now
