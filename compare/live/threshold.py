"""The confidence below which a cascade discards the student's answer for the teacher's.

In: for each answer of the student its confidence and its lead over the teacher's. Out: the
threshold that escalates least while the cascade is shown to be non-inferior.

An escalated answer is the teacher's, which ties with itself. Thresholds are tried from the safest,
which escalates all, until one is not shown to reach the target: tested in a fixed order, all of
them together are wrong with a probability of at most alpha.

Source: fixed sequence testing in Angelopoulos, Bates, Candès, Jordan & Lei 2021, "Learn then Test"
(arXiv 2110.01052), section 2.3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compare.verdict.intervals import MeanInterval, mean_interval
from compare.verdict.non_inferiority import outcome_of_bounds
from potstill.errors import ArtifactError
from potstill.schema import Value
from potstill.verdict.outcome import Outcome, Plan

LARGEST_LEAD = 0.5
"""Of a win rate, less one half."""
MOST_THRESHOLDS = 100
"""Thresholds to try; more would hardly change the result."""


@dataclass(frozen=True)
class Confident:
    """One answer of the student."""

    confidence: float
    """Mean log-probability of its tokens, in nats."""
    lead: float
    """Over the teacher's answer: the score less one half (½ better, 0 tie, -½ worse), or the
    difference of the measurements of a judge that measures each answer."""
    cluster: str
    """One independent observation."""


class Threshold(Value):
    """A threshold, and the result of a cascade with it on prompts that it was not fitted on."""

    least_mean_logprob: float
    share_escalated: float
    lead: float
    """Mean lead of the cascade over the teacher alone; 0 is equal."""
    lower: float
    upper: float
    target: float
    """PASS needs the lower bound above it: minus the margin."""
    outcome: Outcome
    """Of the test on these prompts."""
    student_lead: float
    """Mean lead of the student alone, on these prompts."""
    num_fitted: int
    num_checked: int


def fit_threshold(
    rows: Sequence[Confident], plan: Plan, largest_lead: float = LARGEST_LEAD
) -> Threshold:
    """Fit on one half of the clusters, and test on the other.

    Args:
        largest_lead: Largest absolute lead of one answer.

    Raises:
        ArtifactError: There are too few prompts.
    """
    fitted = [row for row in rows if _half(row.cluster) == 0]
    checked = [row for row in rows if _half(row.cluster) == 1]
    target = -plan.margin
    best = None
    if fitted and checked:
        for threshold in _thresholds(fitted):
            interval = _interval(fitted, threshold, plan, largest_lead)
            if interval.p_at_most(target) >= plan.alpha:
                break
            best = threshold
    if best is None:
        raise ArtifactError(
            "too few judged prompts to fit a threshold",
            expected="enough to show that the teacher is non-inferior to itself",
            found=f"{len(fitted)} to fit on and {len(checked)} to test on",
            hint="compare on more prompts, or with a larger margin",
        )
    interval = _interval(checked, best, plan, largest_lead)
    return Threshold(
        least_mean_logprob=best,
        share_escalated=sum(row.confidence < best for row in checked) / len(checked),
        lead=interval.mean,
        lower=interval.lower,
        upper=interval.upper,
        target=target,
        outcome=outcome_of_bounds(interval.lower, interval.upper, target),
        student_lead=sum(row.lead for row in checked) / len(checked),
        num_fitted=len(fitted),
        num_checked=len(checked),
    )


def _thresholds(rows: Sequence[Confident]) -> list[float]:
    """Return thresholds to try, the one that escalates most first."""
    found = np.unique([row.confidence for row in rows])
    steps = np.unique(np.linspace(0, len(found) - 1, MOST_THRESHOLDS).round().astype(int))
    return [0.0, *(float(value) for value in found[steps][::-1])]


def _interval(
    rows: Sequence[Confident], threshold: float, plan: Plan, largest_lead: float
) -> MeanInterval:
    leads = [row.lead if row.confidence >= threshold else 0.0 for row in rows]
    clusters = [row.cluster for row in rows]
    return mean_interval(leads, clusters, alpha=plan.alpha, bounds=(-largest_lead, largest_lead))


def _half(cluster: str) -> int:
    """Return 0 or 1, always the same for the same cluster."""
    return hashlib.sha256(cluster.encode()).digest()[0] % 2
