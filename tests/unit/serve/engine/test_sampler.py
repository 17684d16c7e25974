"""Every sampling parameter does what it says, on a tiny random model."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.engine.request import Request
from serve.engine.sampler import SamplerParams, sampled_logprob

PROMPT = (300, 301, 302)


def draw(bench, params: SamplerParams, new: int = 20) -> list[int]:
    request = Request(PROMPT, params, max_new_tokens=new, num_top_logprobs=0)
    bench.run(request)
    return [token for token, _ in bench.logprobs(request)]


def first_tokens(bench, count: int = 40, **params) -> set[int]:
    requests = [
        Request(PROMPT, SamplerParams(seed=seed, **params), 1, num_top_logprobs=0)
        for seed in range(count)
    ]
    bench.run(*requests)
    return {bench.logprobs(request)[0][0] for request in requests}


def test_a_seed_repeats_and_zero_is_a_seed_like_any_other(bench):
    for seed in (0, 1, -1, 2**31, 2**32 - 1, -(2**53)):
        assert draw(bench, SamplerParams(seed=seed)) == draw(bench, SamplerParams(seed=seed))
    assert draw(bench, SamplerParams(seed=0)) != draw(bench, SamplerParams(seed=1))
    assert draw(bench, SamplerParams()) != draw(bench, SamplerParams())


def test_each_way_to_leave_one_candidate_is_greedy(bench):
    greedy = draw(bench, SamplerParams(temperature=0.0))
    for params in ({"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}):
        assert draw(bench, SamplerParams(seed=3, **params)) == greedy


def test_top_k_draws_from_k_tokens_only(bench):
    assert len(first_tokens(bench)) > 3
    assert len(first_tokens(bench, top_k=3)) <= 3


def test_temperature_comes_before_top_p(bench):
    # At temperature 2 the distribution is flatter, so the same top_p must keep more tokens.
    assert len(first_tokens(bench, top_p=0.3, temperature=2.0)) > len(
        first_tokens(bench, top_p=0.3, temperature=0.3)
    )


def test_logit_bias_forces_and_forbids(bench):
    assert draw(bench, SamplerParams(seed=0, logit_bias={1234: 100.0}), 3) == [1234] * 3
    best = draw(bench, SamplerParams(temperature=0.0), 1)[0]
    assert draw(bench, SamplerParams(temperature=0.0, logit_bias={best: -100.0}), 1)[0] != best


def test_penalties_count_the_completion_only(bench):
    prompt_token = PROMPT[-1]
    bias = {prompt_token: 50.0, 400: 40.0}
    plain = draw(bench, SamplerParams(temperature=0.0, logit_bias=bias), 3)
    assert plain == [prompt_token] * 3
    for penalty in ({"presence_penalty": 50.0}, {"frequency_penalty": 50.0}):
        params = SamplerParams(temperature=0.0, logit_bias=bias, **penalty)
        assert draw(bench, params, 2) == [prompt_token, 400]


def test_repeat_penalty_counts_the_prompt_too(bench):
    bias = {PROMPT[-1]: 50.0, 400: 40.0}
    params = SamplerParams(temperature=0.0, logit_bias=bias, repeat_penalty=3.0)
    assert draw(bench, params, 1) == [400]


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 1e3), st.integers(0, 20))
def test_log_softmax_is_shift_invariant_and_normalised(seed, scale, num_top):
    logits = np.random.default_rng(seed).normal(0, scale, 50).astype(np.float32)
    result = sampled_logprob(logits, 7, num_top)
    shifted = sampled_logprob((logits + np.float32(1024)).astype(np.float32), 7, 49)
    assert len(result.top) == num_top
    assert result.logprob <= 0.0
    assert [p for _, p in result.top] == sorted((p for _, p in result.top), reverse=True)
    rest = dict(shifted.top)
    assert sum(np.exp(list(rest.values()))) == pytest.approx(1.0, abs=0.05)
