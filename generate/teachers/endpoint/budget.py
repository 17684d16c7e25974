"""The cost of requests and its cap. Thread-safe."""

from __future__ import annotations

import threading

from generate.teachers.endpoint.config import EndpointConfig

TOKENS_PER_PRICE = 1_000_000


class Budget:
    """Amounts spent and reserved for requests in flight, in the configuration's currency."""

    def __init__(self, config: EndpointConfig) -> None:
        self.cap = config.max_cost
        self.spent = 0.0
        self._held = 0.0
        self._prompt_price = config.prompt_price
        self._completion_price = config.completion_price
        self._lock = threading.Lock()

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return the price of a request."""
        prompt = prompt_tokens * self._prompt_price
        return (prompt + completion_tokens * self._completion_price) / TOKENS_PER_PRICE

    def hold(self, worst: float) -> bool:
        """Reserve the highest cost of a request; return False if the cap does not allow it."""
        with self._lock:
            if not self._fits(worst):
                return False
            self._held += worst
            return True

    def lose(self, worst: float) -> bool:
        """Count an attempt whose answer was lost as paid; return whether another fits the cap."""
        with self._lock:
            self.spent += worst
            return self._fits(0.0)

    def settle(self, worst: float, cost: float) -> None:
        """Replace the reserved cost of a finished request by its actual cost."""
        with self._lock:
            self._held -= worst
            self.spent += cost

    def _fits(self, more: float) -> bool:
        return self.cap is None or self.spent + self._held + more <= self.cap
