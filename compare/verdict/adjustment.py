"""A mean adjusted by what is known of prompts beforehand (CUPED), for display.

In: scores of the compared prompts, covariates of these and of others that were drawn alike. Out:
`Adjusted`. By chance the compared prompts are longer or harder than all together; a regression on
covariates removes what that explains, so the gain needs more prompts with covariates than were
compared.

The adjusted mean decides nothing. The exact test is for values whose bounds are known before; here
coefficients are fitted to the same scores, so that its error rate is right for many prompts only.

Source: Deng, Xu, Kohavi & Walker 2013, "Improving the Sensitivity of Online Controlled Experiments
by Utilizing Pre-Experiment Data", section 3.2, with the covariates' mean over all prompts; its
variance as in double sampling, Cochran 1977, "Sampling Techniques", section 12.6.

Shape legend: N values, M prompts with covariates, K covariates.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

from compare.measurement.covariates import FindCovariates
from compare.verdict.figures import Adjusted
from compare.verdict.intervals import robust_error

FEWEST_VALUES = 30
"""With fewer, the fitted coefficients are noise."""


def adjusted(
    values: Sequence[float],
    prompts: Sequence[str],
    clusters: Sequence[Hashable],
    find: FindCovariates,
    names: Sequence[str],
    bounds: tuple[float, float],
) -> Adjusted | None:
    """Return the mean adjusted to all prompts with covariates.

    Args:
        values: [N].
        prompts: The prompt of each.
        clusters: As in `mean_interval`.
        find: Returns [M, K] by prompt; as many numbers for each as `names`.
        bounds: Smallest and largest possible value.

    Returns:
        None with too few values, without covariates, or where none varies.
    """
    covariates = find(set(prompts)) if len(values) >= FEWEST_VALUES else {}
    if not covariates:
        return None
    all_MK = np.array(list(covariates.values()), dtype=np.float64)
    own_NK = np.array([covariates[prompt] for prompt in prompts], dtype=np.float64)
    varies_K = own_NK.std(axis=0) > 0
    if not varies_K.any():
        return None
    all_MK, own_NK = all_MK[:, varies_K], own_NK[:, varies_K]
    values_N, means_K = np.asarray(values, dtype=np.float64), own_NK.mean(axis=0)
    mean = float(values_N.mean())
    slopes_K = np.linalg.lstsq(own_NK - means_K, values_N - mean, rcond=None)[0]
    fitted_N = mean + (own_NK - means_K) @ slopes_K
    plain = robust_error(values_N, clusters, mean, bounds)
    left = robust_error(mean + values_N - fitted_N, clusters, mean, bounds)
    degrees = len(values) - 1
    of_sample = left**2 * degrees / (degrees - len(slopes_K))
    of_all = float(np.var(all_MK @ slopes_K, ddof=1)) / len(all_MK)
    return Adjusted(
        value=mean - float((means_K - all_MK.mean(axis=0)) @ slopes_K),
        standard_error=math.sqrt(of_sample + of_all),
        variance_saved=1 - (of_sample + of_all) / plain**2 if plain else 0.0,
        covariates=tuple(name for name, varies in zip(names, varies_K, strict=True) if varies),
        num_prompts=len(covariates),
    )
