"""The verdict on a running experiment, valid at every look.

In: the student's scores in pairs of answers, as they are judged. Out: outcome, the evidence for
both directions, a confidence sequence.

The pairs of one user are dependent, and bets need independent values. So the pairs of a cluster are
averaged to one value, and a cluster counts once: pairs of a cluster that was in an earlier update
are left out. Pass all pairs of a user together.

PASS is a claim about all users so far. Whether it still holds is watched by a CUSUM of the newest
ones: the likelihood ratio of "as far below the threshold as parity is above it" and parity, which
starts again whenever it falls to zero.

Source: Page 1954, "Continuous Inspection Schemes", Biometrika 41:100, with the score of a normal
likelihood of the running variance; the limit after Siegmund 1985, "Sequential Analysis", eq. 2.51.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np
from numpy.typing import ArrayLike, NDArray

from potstill.verdict.betting import Moments, log_wealth, running_variances
from potstill.verdict.confidence_sequence import one_sided_radius
from potstill.verdict.outcome import Outcome, Plan
from potstill.verdict.sample_size import pairs_for_non_inferiority
from potstill.verdict.scores import checked_values, cluster_sums

Floats = NDArray[np.float64]

NUM_RECENT = 300
"""Clusters whose mean is shown as the present."""
LONGEST_WATCH = 2000
"""Clusters over which a false alarm of the CUSUM has a probability of alpha at most."""


@dataclass
class WinRateMonitor:
    """Tests the win rate of a live experiment at the plan's margin.

    The outcome depends on the bets alone, and is kept once it is reached: PASS when the wealth
    against inferiority has ever reached 1/alpha, FAIL when that against non-inferiority has. FAIL
    overrides PASS: a student that passed and then fell behind has failed. Each error has a
    probability of at most alpha, over all looks. The bounds are for display; they are asymptotic
    and may reach the threshold some pairs before or after the outcome does.
    """

    plan: Plan
    num_pairs: int = 0
    """Pairs that counted."""
    moments: Moments = field(default_factory=Moments)
    """Of the clusters' means."""
    log_e_non_inferior: float = 0.0
    log_e_inferior: float = 0.0
    highest_log_e_non_inferior: float = 0.0
    highest_log_e_inferior: float = 0.0
    seen_clusters: set[Hashable] = field(default_factory=set, repr=False)
    """Clusters that have counted."""
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=NUM_RECENT), repr=False)
    """The newest clusters' means."""
    fall: float = 0.0
    """The CUSUM, in nats: 0 while the newest clusters give no reason for doubt."""

    def update(self, scores: ArrayLike, clusters: Sequence[Hashable] | None = None) -> Outcome:
        """Add newly judged pairs and return the outcome.

        Args:
            scores: The student's score in each pair, 0 to 1, in the order of arrival.
            clusters: Conversation or user of each pair; None where each pair is its own cluster.

        Raises:
            PotstillError: A score is out of bounds, or not one cluster per pair.
        """
        if np.size(scores) == 0:
            return self.outcome
        values_T, num_pairs = self._values(checked_values(scores), clusters)
        if not len(values_T):
            return self.outcome
        non_inferior_T, inferior_T = log_wealth(values_T, self.plan, self.moments)
        self.highest_log_e_non_inferior = max(
            self.highest_log_e_non_inferior, self.log_e_non_inferior + float(non_inferior_T.max())
        )
        self.highest_log_e_inferior = max(
            self.highest_log_e_inferior, self.log_e_inferior + float(inferior_T.max())
        )
        self.log_e_non_inferior += float(non_inferior_T[-1])
        self.log_e_inferior += float(inferior_T[-1])
        self._watch(values_T)
        self.moments = self.moments.after(values_T)
        self.num_pairs += num_pairs
        return self.outcome

    def _values(self, scores_N: Floats, clusters: Sequence[Hashable] | None) -> tuple[Floats, int]:
        """Return one value per new cluster, and the number of their pairs."""
        if clusters is None:
            return scores_N, len(scores_N)
        sums_G, sizes_G = cluster_sums(scores_N, clusters)
        new_G = np.array([cluster not in self.seen_clusters for cluster in dict.fromkeys(clusters)])
        self.seen_clusters.update(clusters)
        return (sums_G / sizes_G)[new_G], int(sizes_G[new_G].sum())

    def _watch(self, values_T: Floats) -> None:
        for value, variance in zip(
            values_T, running_variances(values_T, self.moments), strict=True
        ):
            lag = self.plan.win_rate_threshold - value
            self.fall = max(0.0, self.fall + 2 * self.plan.margin * lag / variance)
            self.recent.append(float(value))

    @property
    def has_fallen(self) -> bool:
        """Whether the newest clusters contradict parity.

        A student that stays at parity is contradicted at any of the first 2,000 clusters with a
        probability of about alpha or less.
        """
        drift = 2 * self.plan.margin**2 / self.moments.variance
        return self.fall >= math.log(LONGEST_WATCH * drift / self.plan.alpha)

    @property
    def recent_rate(self) -> float | None:
        """Mean score of the newest clusters; None before the first."""
        return fmean(self.recent) if self.recent else None

    @property
    def outcome(self) -> Outcome:
        """PASS, FAIL or INCONCLUSIVE so far."""
        needed = -math.log(self.plan.alpha)
        if self.highest_log_e_inferior >= needed:
            return Outcome.FAIL
        if self.highest_log_e_non_inferior >= needed:
            return Outcome.PASS
        return Outcome.INCONCLUSIVE

    @property
    def rate(self) -> float | None:
        """Mean score of the clusters; None before the first."""
        return self.moments.total / self.moments.count if self.moments.count else None

    @property
    def lower(self) -> float:
        """Lower bound of the win rate; holds over all looks with probability 1 - alpha."""
        return 0.0 if self.rate is None else max(0.0, self.rate - self._radius)

    @property
    def upper(self) -> float:
        """Upper bound of the win rate; holds over all looks with probability 1 - alpha."""
        return 1.0 if self.rate is None else min(1.0, self.rate + self._radius)

    @property
    def _radius(self) -> float:
        planned = pairs_for_non_inferiority(self.plan)
        return one_sided_radius(
            self.moments.count, self.moments.variance, self.plan.alpha, tightest_at=planned
        )
