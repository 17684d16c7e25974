"""Intervals that hold over all looks, for display with the evidence of `betting`.

In: the number of values and their variance. Out: one-sided bounds that hold at all times together
with probability 1 - alpha, asymptotically in the number of values.

Source: Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas 2024, "Time-uniform central limit theory and
asymptotic confidence sequences", Annals of Statistics 52: appendices B.1 (one-sided)
and B.2 (where they are narrowest).
"""

from __future__ import annotations

import math


def one_sided_radius(num_values: int, variance: float, alpha: float, tightest_at: int) -> float:
    """Return r such that mean - r is below the true mean at all times with probability 1 - alpha.

    sqrt(variance · 2(trho² + 1)/(t²rho²) · ln(1 + sqrt(trho² + 1)/(2 alpha))) after t values. The
    mean + r is an upper bound as well, with its own alpha.

    Args:
        tightest_at: Number of values at which the bound is tightest.
    """
    rho_squared = mixture_variance(2 * alpha, tightest_at)
    scale = num_values * rho_squared + 1
    factor = 2 * scale / (num_values**2 * rho_squared)
    return math.sqrt(variance * factor * math.log(1 + math.sqrt(scale) / (2 * alpha)))


def mixture_variance(alpha: float, tightest_at: int) -> float:
    """Return rho² of the normal mixture whose two-sided radius is least at `tightest_at` values.

    rho² = (-W₋₁(-alpha²/e) - 1)/t with Lambert's W.
    """
    from scipy.special import lambertw

    return float((-lambertw(-(alpha**2) / math.e, -1).real - 1) / tightest_at)
