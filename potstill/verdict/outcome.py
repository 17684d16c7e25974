"""The plan of a comparison and its possible outcomes.

In: the user's choice. Out: a checked `Plan`, and the four outcomes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from potstill.errors import ConfigError


class Outcome(StrEnum):
    """Whether the student may replace the teacher."""

    PASS = "PASS"
    """The student is shown to be worse than the teacher by less than the margin, if at all."""
    FAIL = "FAIL"
    """The student is shown to be worse by more than the margin."""
    INCONCLUSIVE = "INCONCLUSIVE"
    """Neither is shown."""
    INVALID_JUDGE = "INVALID_JUDGE"
    """The judge missed known differences, or preferred one of two equal answers."""


@dataclass(frozen=True)
class Plan:
    """Margin and error rates, fixed before the first answer is judged.

    Raises:
        ConfigError: A value is outside of its range.
    """

    margin: float = 0.05
    """By how much the student may be worse: in win rate with ties one half, in (0, 0.5); or in the
    unit of a paired metric. With the default, the teacher's answer is better in at most 55 of 100
    pairs, which few readers notice; 619 independent pairs without ties suffice to show it."""
    alpha: float = 0.05
    """Largest probability of PASS for a student that is worse by the margin, and of FAIL for one
    that is not. One-sided; 0.05 is the most that regulators of non-inferiority trials accept."""
    power: float = 0.8
    """Probability of a decision that sample sizes are computed for; the usual one."""

    def __post_init__(self) -> None:
        """Reject values out of range."""
        _check("margin", self.margin, self.margin > 0, "above 0")
        _check("alpha", self.alpha, 0 < self.alpha < 0.5, "between 0 and 0.5")
        _check("power", self.power, self.alpha < self.power < 1, f"between {self.alpha} and 1")

    @property
    def win_rate_threshold(self) -> float:
        """PASS needs the lower bound of the win rate above it: ½ less the margin.

        Raises:
            ConfigError: The margin is ½ or more.
        """
        _check("margin", self.margin, self.margin < 0.5, "below 0.5 for a win rate")
        return 0.5 - self.margin


def _check(name: str, value: float, fine: bool, expected: str) -> None:
    if not fine:
        raise ConfigError(
            "the plan of a comparison is out of range", where=name, expected=expected, found=value
        )
