"""A test after every answer of whether a rate has risen above its limit, for automatic fallback.

In: how many of the newest answers were bad (failed, too slow, too long). Out: an e-value and an
alarm.

Evidence collected from the beginning decreases while all is well, so a failure after a quiet week
would be found late. Therefore a new test starts every ANSWERS_PER_START answers, and the tests are
averaged with weights that sum to one: valid at all looks together, and quick after any change.

Source: Ville's inequality for the average of likelihood-ratio martingales; restarts with weights
1/(j(j + 1)) as in Shin, Ramdas & Rinaldo 2024, "E-detectors", New England J. Stat. Data Sci.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from potstill.errors import ConfigError, PotstillError

ANSWERS_PER_START = 200
"""A new test starts after this many answers: few enough that a change is not diluted for long."""
MOST_STARTS = 500
"""The newest starts are kept; dropping older ones only loses power."""


@dataclass
class RateGuardrail:
    """Watches one rate; a false alarm has a probability of at most alpha.

    Raises:
        ConfigError: The limit or alpha is not between 0 and 1.
    """

    limit: float
    """Highest acceptable rate, as a share."""
    alpha: float = 0.001
    """Probability of a false alarm over the whole life of the guardrail. Low, because a false alarm
    stops the student; at a limit of 0.05 it takes three more bad answers than alpha = 0.05."""
    num_events: int = 0
    num_trials: int = 0
    num_starts: int = 0
    starts: list[tuple[int, int]] = field(default_factory=list)
    """Events and trials at the newest starts."""
    alarm: bool = False
    """Whether the evidence has ever sufficed; never reset."""

    def __post_init__(self) -> None:
        """Refuse a limit or alpha out of range."""
        for name, value in (("limit", self.limit), ("alpha", self.alpha)):
            if not 0 < value < 1:
                raise ConfigError(
                    "a guardrail's limit or alpha is out of range",
                    where=name,
                    expected="between 0 and 1",
                    found=value,
                )

    def update(self, num_events: int, num_trials: int) -> bool:
        """Count new answers and the bad ones among them; return whether there is an alarm.

        Raises:
            PotstillError: More bad answers than answers, or fewer than none.
        """
        if not 0 <= num_events <= num_trials:
            raise PotstillError(
                "counts that are not a rate",
                expected="0 <= events <= trials",
                found=f"{num_events} of {num_trials}",
            )
        if self.num_trials >= self.num_starts * ANSWERS_PER_START:
            self.num_starts += 1
            self.starts = [*self.starts, (self.num_events, self.num_trials)][-MOST_STARTS:]
        self.num_events += num_events
        self.num_trials += num_trials
        self.alarm = self.alarm or self.e_value >= 1 / self.alpha
        return self.alarm

    @property
    def value(self) -> float | None:
        """The rate so far; None before the first answer."""
        return self.num_events / self.num_trials if self.num_trials else None

    @property
    def e_value(self) -> float:
        """Evidence that the rate is, or has risen, above the limit; the alarm is at 1/alpha."""
        waiting = 1 / (self.num_starts + 1)
        if not self.starts:
            return waiting
        starts_J = np.array(self.starts, dtype=np.float64)
        newest_J = np.arange(self.num_starts - len(starts_J) + 1, self.num_starts + 1)
        log_e_J = self._log_e_values(
            self.num_events - starts_J[:, 0], self.num_trials - starts_J[:, 1]
        )
        log_weighted_J = log_e_J - np.log(newest_J * (newest_J + 1.0))
        return waiting + float(np.exp(np.minimum(log_weighted_J, 700.0)).sum())

    def _log_e_values(
        self, events: np.ndarray[Any, Any], trials: np.ndarray[Any, Any]
    ) -> np.ndarray[Any, Any]:
        """Return log likelihood ratios: rates above the limit, by Jeffreys' prior, to the limit.

        For rates below the limit their expectation is below 1 as well.
        """
        from scipy.special import betaincc, betaln

        fine = trials - events
        with np.errstate(divide="ignore"):  # a share too small for a float is no evidence at all
            log_share_above = np.log(betaincc(0.5 + events, 0.5 + fine, self.limit))
        log_above = betaln(0.5 + events, 0.5 + fine) + log_share_above
        log_prior = betaln(0.5, 0.5) + math.log(betaincc(0.5, 0.5, self.limit))
        at_limit = events * math.log(self.limit) + fine * math.log1p(-self.limit)
        log_e: np.ndarray[Any, Any] = log_above - log_prior - at_limit
        return log_e
