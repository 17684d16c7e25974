"""What requests cost, and the cap that they cannot break.

In: prices, a cap, token counts. Out: whether one more request may be sent. Safe between threads.
Knows nothing of HTTP.
"""

from __future__ import annotations

import threading

from generate.teachers.endpoint.config import EndpointConfig

TOKENS_PER_PRICE = 1_000_000


class Budget:
    """Money spent and money held back for requests in flight, in the configuration's currency."""

    def __init__(self, config: EndpointConfig) -> None:
        self.cap = config.max_cost
        self.spent = 0.0
        self._held = 0.0
        self._prompt_price = config.prompt_price
        self._completion_price = config.completion_price
        self._lock = threading.Lock()

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return the price of a request of so many tokens."""
        prompt = prompt_tokens * self._prompt_price
        return (prompt + completion_tokens * self._completion_price) / TOKENS_PER_PRICE

    def hold(self, worst: float) -> bool:
        """Hold back the most that a request can cost; say whether the cap allows it."""
        with self._lock:
            if not self._fits(worst):
                return False
            self._held += worst
            return True

    def lose(self, worst: float) -> bool:
        """Count an attempt whose answer was lost as paid; say whether the cap allows another."""
        with self._lock:
            self.spent += worst
            return self._fits(0.0)

    def settle(self, worst: float, cost: float) -> None:
        """Release what was held back for a request that has ended, and count what it cost."""
        with self._lock:
            self._held -= worst
            self.spent += cost

    def _fits(self, more: float) -> bool:
        return self.cap is None or self.spent + self._held + more <= self.cap
