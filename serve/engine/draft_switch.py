"""Whether drafts pay: measured while answers are generated, for each number of them at once.

In: the time and the tokens of each step. Out: whether the next step should have drafts. A draft
costs time that depends on the machine, both models and the load, and saves what the text allows, so
no setting is right for all of them.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)

BLOCK_STEPS = 9
"""Steps in a row with drafts or without; the first is not counted, because a draft model has to
read what it has missed."""
NUM_BLOCKS = 6
"""Blocks of one measurement, in turns."""
HELD_STEPS = 2000
"""Steps until it is measured again: texts and load change."""


@dataclass
class _Rate:
    seconds: float = 0.0
    num_tokens: int = 0

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / self.seconds if self.seconds else 0.0


@dataclass
class _Measurement:
    """What is known for one number of sequences."""

    num_steps: int = 0
    is_on: bool = True
    rates: dict[bool, _Rate] = field(default_factory=lambda: {True: _Rate(), False: _Rate()})

    @property
    def is_measuring(self) -> bool:
        return self.num_steps < BLOCK_STEPS * NUM_BLOCKS


class DraftSwitch:
    """Decides whether drafts are made."""

    def __init__(self) -> None:
        self._measurements: defaultdict[int, _Measurement] = defaultdict(_Measurement)

    def is_on(self, num_sequences: int) -> bool:
        """Return whether a step of so many sequences should have drafts."""
        found = self._measurements[num_sequences]
        if found.is_measuring:
            return (found.num_steps // BLOCK_STEPS) % 2 == 0
        return found.is_on

    def record(self, num_sequences: int, seconds: float, num_tokens: int) -> None:
        """Take into account a step that was as `is_on` wanted it.

        Args:
            seconds: Time of the step, its draft included.
            num_tokens: Tokens that it added to the answers.
        """
        found = self._measurements[num_sequences]
        if found.is_measuring and found.num_steps % BLOCK_STEPS:
            rate = found.rates[self.is_on(num_sequences)]
            rate.seconds += seconds
            rate.num_tokens += num_tokens
        was_measuring = found.is_measuring
        found.num_steps += 1
        if was_measuring and not found.is_measuring:
            self._decide(found, num_sequences)
        elif found.num_steps >= BLOCK_STEPS * NUM_BLOCKS + HELD_STEPS:
            self._measurements[num_sequences] = _Measurement(is_on=found.is_on)

    def _decide(self, found: _Measurement, num_sequences: int) -> None:
        drafted, plain = (found.rates[one].tokens_per_second for one in (True, False))
        found.is_on = drafted >= plain
        logger.info(
            "drafts are %s for %d answers at once: %.1f tokens/s with them, %.1f without",
            "on" if found.is_on else "off",
            num_sequences,
            drafted,
            plain,
        )
