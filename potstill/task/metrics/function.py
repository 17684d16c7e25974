"""A metric that is a function of the user's."""

from __future__ import annotations

import math

from potstill.task.answers import Answer, Item, Score, folded
from potstill.task.functions import import_function
from potstill.task.metrics.config import FunctionConfig


class Function:
    """Calls `module:function` with the answer's text, the known text or None, and the messages.

    Raises:
        ConfigError: There is no such function.
    """

    needs_known = False

    def __init__(self, config: FunctionConfig) -> None:
        self.name = config.name or config.function.partition(":")[2]
        self._function = import_function(config.function, "task.metrics")

    def score(self, answer: Answer, item: Item) -> Score:
        """Return what the function returns; 0 with the reason when it raises or is out of range."""
        known = item.known.text if item.known else None
        messages = [message.to_chat() for message in item.messages]
        try:
            value = float(self._function(answer.text, known, messages))
        except Exception as error:  # Any exception of the user's code scores 0.
            return Score(value=0.0, problem=f"{type(error).__name__}: {error}"[:200])
        if not (math.isfinite(value) and 0.0 <= value <= 1.0):
            return Score(value=0.0, problem=f"the metric returned {value:g}, not 0 to 1")
        return Score(value=value)

    def key(self, answer: Answer) -> str | None:
        """Return the text without case and surplus white space; None for an empty one."""
        return folded(answer.text) or None
