"""Sample ratio mismatch: a test of whether users were split among the arms as configured.

In: the number of users of each arm, and its configured share. Out: a p-value. After a mismatch no
comparison of arms is valid.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from potstill.errors import PotstillError

MIN_EXPECTED = 5.0
"""Expected users per arm below which the χ² approximation is poor (Cochran 1954)."""

SAMPLE_RATIO_ALARM_P = 0.001
"""Below it, the split is broken. It is this low because a sound split is tested very often."""


def sample_ratio_mismatch(counts: Sequence[int], shares: Sequence[float]) -> float:
    """Return the p-value of "users were split by these shares", by Pearson's χ².

    While an arm has few expected users, each arm's binomial test with Bonferroni's correction is
    used instead: one user in a small arm is no alarm.

    Count users, which were split, not their requests, which come in clusters. If shares have
    changed over time, pass each arm's sum of shares over all arrivals: its expected users.

    Source: Fabijan et al. 2019, "Diagnosing Sample Ratio Mismatch in Online Controlled
    Experiments", KDD; χ² through scipy.stats.chisquare and binomtest.

    Args:
        shares: Share of each arm, in any unit: they are scaled to the counts.

    Raises:
        PotstillError: Arms do not match, a number is negative, or no arm has a share.
    """
    from scipy.stats import binomtest, chisquare

    counts_A, shares_A = np.asarray(counts, np.float64), np.asarray(shares, np.float64)
    if counts_A.shape != shares_A.shape or counts_A.ndim != 1:
        raise PotstillError(
            "each arm needs a count and a share",
            expected=f"{len(counts)} shares",
            found=len(shares),
        )
    if (counts_A < 0).any() or not (shares_A >= 0).all() or shares_A.sum() <= 0:
        raise PotstillError(
            "counts and shares of arms must not be negative, and one share must be positive",
            found=f"counts {list(counts)}, shares {list(shares)}",
        )
    open_A = shares_A > 0
    if counts_A[~open_A].any():
        return 0.0
    total = counts_A.sum()
    if total == 0 or open_A.sum() < 2:
        return 1.0
    share_A = shares_A[open_A] / shares_A.sum()
    if share_A.min() * total >= MIN_EXPECTED:
        return float(chisquare(counts_A[open_A], share_A * total).pvalue)
    p_values = [
        binomtest(int(count), int(total), share).pvalue
        for count, share in zip(counts_A[open_A], share_A, strict=True)
    ]
    num_tests = len(p_values) if len(p_values) > 2 else 1  # With two arms both tests are the same.
    return float(min(1.0, num_tests * min(p_values)))
