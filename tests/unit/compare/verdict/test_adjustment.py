"""Means adjusted by covariates, with known gains."""

import numpy as np
import pytest

from compare.verdict.adjustment import adjusted

NAMES = ("length", "constant")
BOUNDS = (-1.0, 1.0)
NUM_ALL, NUM_OWN = 1000, 100


def drawn(rng, slope=0.1, noise=0.05):
    """Return covariates of all prompts, and the scores of the first ones."""
    x = rng.normal(size=NUM_ALL)
    covariates = {str(n): (float(one), 7.0) for n, one in enumerate(x)}
    values = slope * x[:NUM_OWN] + noise * rng.normal(size=NUM_OWN)
    return covariates, values


def of(values, covariates, clusters=None):
    prompts = [str(n) for n in range(len(values))]
    return adjusted(values, prompts, clusters or prompts, lambda _: covariates, NAMES, BOUNDS)


def test_what_a_covariate_explains_is_removed():
    """It explains 0.8 of the variance: 0.2/100 + 0.8/1000 are left of 1/100."""
    rng = np.random.default_rng(0)
    found = [of(values, covariates) for covariates, values in (drawn(rng) for _ in range(200))]
    assert np.mean([one.variance_saved for one in found]) == pytest.approx(0.72, abs=0.03)
    spread = np.std([one.value for one in found])
    assert np.mean([one.standard_error for one in found]) == pytest.approx(spread, rel=0.15)
    assert np.mean([one.value for one in found]) == pytest.approx(0, abs=4 * spread / 200**0.5)
    assert found[0].covariates == ("length",)
    assert found[0].num_prompts == NUM_ALL
    assert "72% less variance" in found[0].model_copy(update={"variance_saved": 0.72}).in_words()


def test_a_covariate_that_explains_nothing_saves_nothing():
    rng = np.random.default_rng(1)
    found = [of(values, covariates) for covariates, values in (drawn(rng, 0.0) for _ in range(50))]
    assert np.mean([one.variance_saved for one in found]) == pytest.approx(0, abs=0.02)


def test_without_covariates_or_scores_there_is_nothing_to_adjust():
    covariates, values = drawn(np.random.default_rng(2))
    assert of(values, {}) is None
    assert of(values[:29], covariates) is None
    assert of(values, dict.fromkeys(covariates, (1.0, 7.0))) is None


def test_clusters_count_as_they_do_elsewhere():
    covariates, values = drawn(np.random.default_rng(3))
    pairs = [str(n // 2) for n in range(NUM_OWN)]
    twice = np.repeat(values[::2], 2)
    assert of(twice, covariates, pairs).standard_error > 1.2 * of(twice, covariates).standard_error
