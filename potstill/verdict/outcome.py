"""What is asked of a comparison before it begins, and what it may answer.

In: the user's choice. Out: a checked `Plan`, and the four outcomes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from potstill.errors import ConfigError


class Outcome(StrEnum):
    """The answer to "may this student replace the teacher?"."""

    PASS = "PASS"
    """The student is shown to be no worse than the teacher by more than the margin."""
    FAIL = "FAIL"
    """The student is shown to be worse by more than the margin."""
    INCONCLUSIVE = "INCONCLUSIVE"
    """The data allow both."""
    INVALID_JUDGE = "INVALID_JUDGE"
    """The judge did not see differences that are there, or saw some that are not."""


@dataclass(frozen=True)
class Plan:
    """Margin and error rates, fixed before the first answer is judged.

    Raises:
        ConfigError: A value is outside of its range.
    """

    margin: float = 0.05
    """By how much the student may be worse: of a win rate with ties one half, in (0, 0.5); of a
    paired metric, in the metric's unit. By the default the teacher's answer is the better one in 55
    of 100 pairs at worst, which few readers notice, and 619 pairs suffice to show it."""
    alpha: float = 0.05
    """Highest probability of PASS for a student that is worse by the margin, and of FAIL for one
    that is not. One-sided; 0.05 is what regulators of non-inferiority trials accept at most."""
    power: float = 0.8
    """Probability of a decision for which sample sizes are reckoned; the usual one."""

    def __post_init__(self) -> None:
        """Refuse what no test can be built on."""
        _check("margin", self.margin, self.margin > 0, "above 0")
        _check("alpha", self.alpha, 0 < self.alpha < 0.5, "between 0 and 0.5")
        _check("power", self.power, self.alpha < self.power < 1, f"between {self.alpha} and 1")

    @property
    def win_rate_threshold(self) -> float:
        """The win rate that the student has to exceed: ½ less the margin.

        Raises:
            ConfigError: The margin leaves nothing to exceed.
        """
        _check("margin", self.margin, self.margin < 0.5, "below 0.5 for a win rate")
        return 0.5 - self.margin


def _check(name: str, value: float, fine: bool, expected: str) -> None:
    if not fine:
        raise ConfigError(
            "The plan of a comparison is out of range.", where=name, expected=expected, found=value
        )
