import numpy as np
import pytest
from scipy import stats

from compare.verdict.intervals import mean_interval
from potstill.errors import PotstillError


def test_many_values_have_nearly_student_s_t():
    values = np.random.default_rng(0).random(1000)
    interval = mean_interval(values, alpha=0.05)
    lower, upper = stats.ttest_1samp(values, 0.5).confidence_interval(0.90)
    assert (interval.lower, interval.upper) == pytest.approx((lower, upper), abs=2e-3)
    assert interval.lower < lower < upper < interval.upper


@pytest.mark.parametrize("successes", [0, 1, 7, 30, 59, 60])
def test_correct_or_wrong_answers_have_the_exact_binomial_bounds(successes):
    interval = mean_interval([1.0] * successes + [0.0] * (60 - successes), alpha=0.05)
    exact = stats.binomtest(successes, 60).proportion_ci(0.90, method="exact")
    assert (interval.lower, interval.upper) == pytest.approx((exact.low, exact.high), abs=1e-6)
    tail = stats.binomtest(successes, 60, 0.45, alternative="greater").pvalue
    assert interval.p_at_most(0.45) == pytest.approx(tail, abs=1e-9)
    tail = stats.binomtest(successes, 60, 0.45, alternative="less").pvalue
    assert interval.p_at_least(0.45) == pytest.approx(tail, abs=1e-9)


@pytest.mark.parametrize("num_values", [1, 2, 30])
def test_p_is_the_share_of_random_weights_whose_mean_is_at_most_the_threshold(num_values):
    rng = np.random.default_rng(num_values)
    values = rng.random(num_values)
    weights = rng.dirichlet(np.ones(num_values + 1), 50_000)
    means = weights @ np.append(values, 0.0)
    interval = mean_interval(values, alpha=0.05)
    assert interval.p_at_most(0.4) == pytest.approx(np.mean(means <= 0.4), abs=0.008)
    assert interval.lower == pytest.approx(np.quantile(means, 0.05), abs=0.008)


@pytest.mark.parametrize("num_losses", [0, 1, 2])
def test_a_loss_more_never_makes_a_pass_easier(num_losses):
    fewer, more = (
        mean_interval([0.5] * (60 - losses) + [0.0] * losses, alpha=0.05).p_at_most(0.45)
        for losses in (num_losses, num_losses + 1)
    )
    assert fewer < more


def test_equal_clusters_have_statsmodels_robust_error():
    from statsmodels.regression.linear_model import OLS

    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(12), 5)
    values = np.clip(0.5 + 0.2 * rng.normal(size=12)[clusters] + 0.1 * rng.normal(size=60), 0, 1)
    fit = OLS(values, np.ones(60)).fit(cov_type="cluster", cov_kwds={"groups": clusters})
    interval = mean_interval(values, list(clusters), alpha=0.05)
    assert interval.standard_error == pytest.approx(float(fit.bse[0]))


def test_unequal_clusters_have_cr2_by_its_definition_in_matrices():
    rng = np.random.default_rng(2)
    clusters = np.repeat(np.arange(6), [1, 2, 3, 5, 8, 13])
    values = rng.random(32)
    num_values = len(values)
    residual_maker = np.eye(num_values) - 1 / num_values
    residuals = residual_maker @ values
    variance = 0.0
    for cluster in range(6):
        inside = clusters == cluster
        block = residual_maker[np.ix_(inside, inside)]
        eigenvalues, vectors = np.linalg.eigh(block)
        adjustment = vectors @ np.diag(eigenvalues**-0.5) @ vectors.T
        variance += (np.ones(inside.sum()) @ adjustment / num_values @ residuals[inside]) ** 2
    interval = mean_interval(values, list(clusters), alpha=0.05)
    assert interval.standard_error**2 == pytest.approx(variance)


def test_ten_copies_of_every_value_do_not_narrow_the_interval():
    values = np.random.default_rng(3).choice([0, 0.5, 1], 60)
    once = mean_interval(values, alpha=0.05)
    copied = np.repeat(values, 10)
    clustered = mean_interval(copied, list(np.repeat(np.arange(60), 10)), alpha=0.05)
    careless = mean_interval(copied, alpha=0.05)
    assert (clustered.lower, clustered.upper) == pytest.approx((once.lower, once.upper), abs=1e-6)
    assert careless.upper - careless.lower < 0.4 * (once.upper - once.lower)


def _clustered_values(rng, num_clusters):
    """Binary scores in clusters of 1 to 9, correlated by their cluster's own rate; mean 0.45."""
    sizes = rng.integers(1, 10, num_clusters)
    clusters = np.repeat(np.arange(num_clusters), sizes)
    rates = rng.beta(0.9, 1.1, num_clusters)
    return (rng.random(len(clusters)) < rates[clusters]).astype(float), clusters.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("num_clusters", [10, 30, 150])
def test_bounds_cover_at_least_as_often_as_promised(num_clusters):
    rng = np.random.default_rng(num_clusters)
    covered, careless = [], []
    for _ in range(300):
        values, clusters = _clustered_values(rng, num_clusters)
        interval = mean_interval(values, clusters, alpha=0.05)
        covered.append((interval.lower <= 0.45, interval.upper >= 0.45))
        careless.append(mean_interval(values, alpha=0.05).lower <= 0.45)
    # Standard error of a share of 0.95 in 300 runs: 0.013.
    assert np.mean(covered, axis=0).min() >= 0.92
    assert np.mean(careless) < 0.9


def test_values_without_spread_have_the_rule_of_three():
    clean = mean_interval(np.zeros(100), alpha=0.05)
    assert clean.lower == 0
    assert clean.upper == pytest.approx(3 / 100, rel=0.02)
    ties = mean_interval(np.full(100, 0.5), alpha=0.05)
    assert ties.lower == pytest.approx(0.5 * 0.05**0.01, abs=1e-6)
    assert ties.p_at_most(ties.lower) == pytest.approx(0.05, abs=1e-4)
    assert ties.p_at_least(ties.upper) == pytest.approx(0.05, abs=1e-4)
    assert ties.p_at_most(0.6) == 1


def test_one_cluster_tells_next_to_nothing():
    interval = mean_interval([0.4, 0.6, 0.5], ["a", "a", "a"], alpha=0.05)
    assert interval.lower < 0.03
    assert interval.upper > 0.97
    assert interval.standard_error == 0.5


def test_values_that_are_not_known_have_the_worst_one_in_each_bound():
    known = [1.0, 0.5, 0.0] * 20
    clusters = [*range(60), 0, 61, 61]
    partly = mean_interval([*known, None, None, None], clusters, alpha=0.05)
    worst = mean_interval([*known, 0.0, 0.0, 0.0], clusters, alpha=0.05)
    best = mean_interval([*known, 1.0, 1.0, 1.0], clusters, alpha=0.05)
    assert (partly.lower, partly.upper) == (worst.lower, best.upper)
    assert partly.p_at_most(0.45) == worst.p_at_most(0.45)
    assert partly.p_at_least(0.45) == best.p_at_least(0.45)
    assert (partly.mean, partly.num_values, partly.num_unread) == (0.5, 60, 3)


@pytest.mark.parametrize(
    ("values", "clusters", "message"),
    [
        ([], None, "at least one"),
        ([[0.5]], None, "one dimension"),
        ([0.5, 1.5], None, "row 1"),
        ([0.5, float("nan")], None, "row 1"),
        ([0.5, 0.5], ["a"], "cluster"),
        ([None, None], None, "known value"),
    ],
)
def test_what_is_no_list_of_values_is_refused(values, clusters, message):
    with pytest.raises(PotstillError, match=message):
        mean_interval(values, clusters, alpha=0.05)
