"""The verdict on a running experiment, valid at every look.

In: the student's scores in pairs of answers, as they are judged. Out: outcome, the evidence for
both directions, a confidence sequence.

The pairs of one conversation or user are dependent, and bets need independent values. So the pairs
of a cluster are averaged to one value, and a cluster counts once: pairs of a cluster that was in an
earlier update are left out. Pass a conversation when it has ended.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from potstill.verdict.betting import Moments, log_wealth
from potstill.verdict.confidence_sequence import one_sided_radius
from potstill.verdict.outcome import Outcome, Plan
from potstill.verdict.sample_size import pairs_for_non_inferiority
from potstill.verdict.scores import checked_values, cluster_sums

Floats = NDArray[np.float64]


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
