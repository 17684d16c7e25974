"""Sample ratio mismatch: a test of whether users were split among the arms as configured.

In: the number of users of each arm, for each configured split. Out: a p-value that holds at every
look. After a mismatch no comparison of arms is valid.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

SAMPLE_RATIO_ALARM_P = 0.001
"""Below it, the split is broken: an alarm at any of all looks has this probability."""
PRIOR_USERS = 10.0
"""Weight of the configured shares in the alternative; smaller finds larger mismatches sooner."""


def sample_ratio_mismatch(splits: Iterable[tuple[Mapping[str, float], Mapping[str, int]]]) -> float:
    """Return the p-value of "users were split by these shares", at most 1, valid at all looks.

    1 over the Bayes factor of "by shares drawn from a Dirichlet distribution about the configured
    ones", which is a martingale in the number of users: it ever exceeds 1/p with a probability of
    at most p. Factors of successive splits multiply. Count users, which were split, not their
    requests, which come in clusters.

    Source: Lindon & Malek 2022, "Anytime-Valid Inference for Multinomial Count Data", eq. 8.

    Args:
        splits: Shares by arm, summing to 1, and the users that were split by them.
    """
    log_factor = 0.0
    for shares, counts in splits:
        if any(number and not shares.get(arm) for arm, number in counts.items()):
            return 0.0
        total = sum(counts.values())
        log_factor += math.lgamma(PRIOR_USERS) - math.lgamma(PRIOR_USERS + total)
        for arm, number in counts.items():
            prior = PRIOR_USERS * shares[arm]
            log_factor += math.lgamma(prior + number) - math.lgamma(prior)
            log_factor -= number * math.log(shares[arm])
    return min(1.0, math.exp(-log_factor)) if log_factor > 0 else 1.0
