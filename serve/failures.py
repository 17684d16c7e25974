"""When to give up on a part of the server that fails and is started again."""

from __future__ import annotations

import time
from collections import deque

MAX_FAILURES, FAILURES_SECONDS = 3, 600.0
"""What has failed so often in such a time is not started again."""


class Failures:
    """The latest failures of one part."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=MAX_FAILURES)

    def add(self) -> bool:
        """Count one now; return whether there were too many."""
        self._times.append(time.monotonic())
        span_seconds = self._times[-1] - self._times[0]
        return len(self._times) == MAX_FAILURES and span_seconds < FAILURES_SECONDS
