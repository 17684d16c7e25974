import numpy as np
import pytest

from quantize.verification.measurement import measurement_of

COUNTS = (40, 7, 153, 1, 66)
ANSWER = {
    "num_parameters": 1000,
    "tensor_bytes": 771,
    "prompt_tokens_per_second": 512.345,
    "decode_tokens_per_second": 12.344,
    "batch_decode_tokens_per_second": 98.765,
    "peak_memory_bytes": 99,
}


@pytest.fixture
def compared_T():
    draws = np.random.default_rng(0)
    dtype = [("kl_nats", "f8"), ("logprob", "f8"), ("reference_logprob", "f8"), ("same_top", "?")]
    rows = np.empty(sum(COUNTS), dtype)
    level = np.repeat(draws.gamma(2.0, size=len(COUNTS)), COUNTS)
    rows["kl_nats"] = level * draws.gamma(0.3, 0.1, size=len(rows))
    rows["reference_logprob"] = -draws.gamma(1.0, size=len(rows))
    rows["logprob"] = np.minimum(rows["reference_logprob"] + draws.normal(0, 0.1, len(rows)), -1e-6)
    rows["same_top"] = draws.random(len(rows)) < 0.8
    return rows


@pytest.fixture
def measured(compared_T):
    return measurement_of(ANSWER, compared_T, [{"target_ids": [0] * count} for count in COUNTS])


def llama_percentile(values, fraction):
    """As the lambda `percentile` in llama.cpp's perplexity.cpp."""
    values = sorted(values)
    place = fraction * (len(values) - 1)
    index = int(place)
    place -= index
    return (1 - place) * values[index] + place * values[min(index + 1, len(values) - 1)]


def test_percentiles_are_llama_cpps(measured, compared_T):
    kl_T = compared_T["kl_nats"].tolist()
    assert measured.kl_median_nats == pytest.approx(llama_percentile(kl_T, 0.5))
    assert measured.kl_p99_nats == pytest.approx(llama_percentile(kl_T, 0.99))
    assert measured.kl_p999_nats == pytest.approx(llama_percentile(kl_T, 0.999))
    assert measured.kl_max_nats == max(kl_T)


def test_the_standard_error_takes_conversations_as_independent(measured, compared_T):
    from statsmodels.regression.linear_model import OLS

    groups = np.repeat(np.arange(len(COUNTS)), COUNTS)
    ones = np.ones(len(compared_T))
    fit = OLS(compared_T["kl_nats"], ones).fit(cov_type="cluster", cov_kwds={"groups": groups})
    assert measured.kl_to_checkpoint_nats == pytest.approx(fit.params[0])
    assert measured.kl_standard_error_nats == pytest.approx(fit.bse[0])


def test_probabilities_and_perplexities_are_of_the_tokens_that_follow(measured, compared_T):
    changes = [np.exp(row["logprob"]) - np.exp(row["reference_logprob"]) for row in compared_T]
    assert measured.mean_delta_p == pytest.approx(sum(changes) / len(changes))
    rms = (sum(change**2 for change in changes) / len(changes)) ** 0.5
    assert measured.rms_delta_p == pytest.approx(rms)
    perplexities = [np.exp(-compared_T[name].mean()) for name in ("logprob", "reference_logprob")]
    assert measured.perplexity == pytest.approx(perplexities[0])
    assert measured.perplexity_ratio == pytest.approx(perplexities[0] / perplexities[1])
    assert measured.top1_agreement_with_checkpoint == compared_T["same_top"].mean()


def test_size_speed_and_memory_are_rounded(measured):
    assert measured.bits_per_weight == 6.168
    assert measured.prompt_tokens_per_second == 512.35
    assert measured.decode_tokens_per_second == 12.34
    assert measured.peak_memory_bytes == 99
