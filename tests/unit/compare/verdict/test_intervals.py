import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from compare.verdict.intervals import mean_interval
from potstill.errors import PotstillError


def test_without_clusters_it_is_student_s_t():
    values = np.random.default_rng(0).random(40)
    interval = mean_interval(values, alpha=0.05)
    lower, upper = stats.ttest_1samp(values, 0.5).confidence_interval(0.90)
    assert (interval.lower, interval.upper) == pytest.approx((lower, upper))
    assert interval.degrees_of_freedom == pytest.approx(39)
    above = stats.ttest_1samp(values, 0.45, alternative="greater").pvalue
    below = stats.ttest_1samp(values, 0.45, alternative="less").pvalue
    assert interval.p_at_most(0.45) == pytest.approx(above)
    assert interval.p_at_least(0.45) == pytest.approx(below)


def test_equal_clusters_have_statsmodels_robust_error():
    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(12), 5)
    values = np.clip(0.5 + 0.2 * rng.normal(size=12)[clusters] + 0.1 * rng.normal(size=60), 0, 1)
    fit = sm.OLS(values, np.ones(60)).fit(cov_type="cluster", cov_kwds={"groups": clusters})
    interval = mean_interval(values, list(clusters), alpha=0.05)
    assert interval.standard_error == pytest.approx(float(fit.bse[0]))
    assert interval.degrees_of_freedom == pytest.approx(11)


def test_unequal_clusters_have_cr2_by_its_definition_in_matrices():
    rng = np.random.default_rng(2)
    clusters = np.repeat(np.arange(6), [1, 2, 3, 5, 8, 13])
    values = rng.random(32)
    num_values = len(values)
    residual_maker = np.eye(num_values) - 1 / num_values
    residuals = residual_maker @ values
    variance, rows = 0.0, []
    for cluster in range(6):
        inside = clusters == cluster
        block = residual_maker[np.ix_(inside, inside)]
        eigenvalues, vectors = np.linalg.eigh(block)
        adjustment = vectors @ np.diag(eigenvalues**-0.5) @ vectors.T
        score = np.ones(inside.sum()) @ adjustment / num_values
        variance += (score @ residuals[inside]) ** 2
        rows.append(score @ residual_maker[inside])
    covariance = np.array(rows) @ np.array(rows).T
    interval = mean_interval(values, list(clusters), alpha=0.05)
    assert interval.standard_error**2 == pytest.approx(variance)
    degrees = np.trace(covariance) ** 2 / np.trace(covariance @ covariance)
    assert interval.degrees_of_freedom == pytest.approx(degrees)


@pytest.mark.parametrize("method", ["t", "bca"])
def test_ten_copies_of_every_value_do_not_narrow_the_interval(method):
    values = np.random.default_rng(3).choice([0, 0.5, 1], 60)
    once = mean_interval(values, alpha=0.05, method=method)
    copied = np.repeat(values, 10)
    clustered = mean_interval(copied, list(np.repeat(np.arange(60), 10)), alpha=0.05, method=method)
    careless = mean_interval(copied, alpha=0.05, method=method)
    assert (clustered.lower, clustered.upper) == pytest.approx((once.lower, once.upper))
    assert careless.upper - careless.lower < 0.4 * (once.upper - once.lower)


def _clustered_values(rng, num_clusters):
    """Binary scores in clusters of 1 to 9, correlated by their cluster's own rate; mean 0.45."""
    sizes = rng.integers(1, 10, num_clusters)
    clusters = np.repeat(np.arange(num_clusters), sizes)
    rates = rng.beta(0.9, 1.1, num_clusters)
    return (rng.random(len(clusters)) < rates[clusters]).astype(float), clusters.tolist()


@pytest.mark.parametrize("num_clusters", [10, 30, 150])
def test_bounds_by_t_cover_as_often_as_promised(num_clusters):
    rng = np.random.default_rng(num_clusters)
    covered, careless = [], []
    for _ in range(700):
        values, clusters = _clustered_values(rng, num_clusters)
        interval = mean_interval(values, clusters, alpha=0.05)
        covered.append((interval.lower <= 0.45, interval.upper >= 0.45))
        careless.append(mean_interval(values, alpha=0.05).lower <= 0.45)
    # Standard error of a share of 0.95 in 700 runs: 0.008.
    assert np.mean(covered, axis=0) == pytest.approx(0.95, abs=0.03)
    assert np.mean(careless) < 0.9


@pytest.mark.parametrize(("num_clusters", "least"), [(30, 0.89), (120, 0.92)])
def test_bounds_by_bca_cover_nearly_as_often(num_clusters, least):
    rng = np.random.default_rng(num_clusters)
    covered = []
    for _ in range(250):
        values, clusters = _clustered_values(rng, num_clusters)
        interval = mean_interval(values, clusters, alpha=0.05, method="bca", num_resamples=600)
        covered.append((interval.lower <= 0.45, interval.upper >= 0.45))
    assert least <= np.mean(covered, axis=0).min()
    assert np.mean(covered) <= 0.985


@pytest.mark.parametrize("method", ["t", "bca"])
def test_values_without_spread_have_the_rule_of_three(method):
    clean = mean_interval(np.zeros(100), alpha=0.05, method=method)
    exact = stats.binomtest(0, 100).proportion_ci(0.90, method="exact")
    assert (clean.lower, clean.upper) == pytest.approx((0, exact.high))
    assert clean.upper == pytest.approx(3 / 100, rel=0.02)
    ties = mean_interval(np.full(100, 0.5), alpha=0.05, method=method)
    assert ties.lower == pytest.approx(0.5 * 0.05**0.01)
    assert ties.p_at_most(ties.lower) == pytest.approx(0.05)
    assert ties.p_at_least(ties.upper) == pytest.approx(0.05)
    assert ties.p_at_most(0.6) == 1


def test_one_cluster_tells_next_to_nothing():
    interval = mean_interval([0.4, 0.6, 0.5], ["a", "a", "a"], alpha=0.05)
    assert interval.lower < 0.03
    assert interval.upper > 0.97
    assert interval.standard_error == 0.5


@pytest.mark.parametrize(
    ("values", "clusters", "message"),
    [
        ([], None, "at least one"),
        ([[0.5]], None, "one dimension"),
        ([0.5, 1.5], None, "row 1"),
        ([0.5, float("nan")], None, "row 1"),
        ([0.5, 0.5], ["a"], "cluster"),
    ],
)
def test_what_is_no_list_of_values_is_refused(values, clusters, message):
    with pytest.raises(PotstillError, match=message):
        mean_interval(values, clusters, alpha=0.05)
