"""The outcome of a non-inferiority test.

In: the bounds of a mean (a win rate with ties ½, or student - teacher in a metric) and the
threshold: the value for equal models less the margin. Out: the outcome.
"""

from __future__ import annotations

from potstill.verdict.outcome import Outcome


def outcome_of_bounds(lower: float, upper: float, threshold: float) -> Outcome:
    """Return PASS for bounds above the threshold, FAIL for bounds below it."""
    if lower > threshold:
        return Outcome.PASS
    return Outcome.FAIL if upper < threshold else Outcome.INCONCLUSIVE
