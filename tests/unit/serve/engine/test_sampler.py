"""Every sampling parameter: through the engine, and compared with a numpy reference in float64."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.errors import BackendError
from serve.engine.model import GgufModel
from serve.engine.request import Request
from serve.engine.sampler import Candidates, Sampler, SamplerParams, sampled_logprob
from serve.errors import InvalidRequestError

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
def test_log_softmax_is_shift_invariant_and_normalized(seed, scale, num_top):
    logits = np.random.default_rng(seed).normal(0, scale, 50).astype(np.float32)
    result = sampled_logprob(logits, 7, num_top)
    shifted = sampled_logprob((logits + np.float32(1024)).astype(np.float32), 7, 49)
    assert len(result.top) == num_top
    assert result.logprob <= 0.0
    assert [p for _, p in result.top] == sorted((p for _, p in result.top), reverse=True)
    rest = dict(shifted.top)
    assert sum(np.exp(list(rest.values()))) == pytest.approx(1.0, abs=0.05)


NUM_DRAWS = 300
LOGITS = np.array([3.0, 2.5, 2.0, 1.5, 1.0, 0.5, 0.0, -0.5])
LIKELY = np.arange(1000, 1000 + len(LOGITS))
REST = -40.0


@pytest.fixture(scope="module")
def candidates(tiny_model: GgufModel) -> Candidates:
    return Candidates(tiny_model.vocab_size)


@pytest.fixture
def make(tiny_model, candidates):
    def make(prompt=(5, 6, 7), *, ignore_eos=False, **params) -> Sampler:
        return Sampler(
            SamplerParams(**params),
            tiny_model,
            candidates,
            prompt,
            context_tokens=64,
            ignore_eos=ignore_eos,
        )

    return make


def row(tiny_model, values=LOGITS) -> np.ndarray:
    logits = np.full(tiny_model.vocab_size, REST, np.float32)
    logits[LIKELY] = values
    return logits


@pytest.mark.parametrize(
    "params",
    [
        {"xtc_probability": 1.0, "xtc_threshold": 0.0},
        {"dry_multiplier": 100.0, "dry_base": 10.0, "dry_allowed_length": 0},
        {"top_k": 5, "typical_p": 1e-9, "top_n_sigma": 100.0},
        {"mirostat": 1},
        {"mirostat": 2, "mirostat_tau": 1e-9},
    ],
    ids=str,
)
@pytest.mark.parametrize("num_allowed", [1, 2])
def test_no_setting_draws_a_token_that_a_grammar_forbids(make, tiny_model, params, num_allowed):
    sampler = make([LIKELY[0]] * 60, seed=0, **params)
    allowed = np.zeros(tiny_model.vocab_size, bool)
    allowed[LIKELY[:num_allowed]] = True
    for _ in range(5):
        token_id = sampler.choose(row(tiny_model), allowed)
        assert allowed[token_id]
        sampler.accept(token_id)
    sampler.close()


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def top_k(p, k):
    return np.argsort(-p)[:k]


def top_p(p, mass):
    order = np.argsort(-p)
    return order[: np.searchsorted(np.cumsum(p[order]), mass) + 1]


def typical(p, mass):
    surprise = -np.log(p)
    order = np.argsort(np.abs(surprise - (p * surprise).sum()))
    return order[: np.searchsorted(np.cumsum(p[order]), mass) + 1]


def top_n_sigma(_p, n, temperature, vocab_size):
    logits = np.full(vocab_size, REST)
    logits[: len(LOGITS)] = LOGITS
    logits /= temperature
    return np.flatnonzero(logits >= logits.max() - n * logits.std())


def xtc(p, threshold):
    above = np.flatnonzero(p >= threshold)
    return np.setdiff1d(np.arange(len(p)), above[:-1])


CASES = {
    "plain": ({}, lambda p, _: np.arange(len(p))),
    "temperature": ({"temperature": 2.0}, lambda p, _: np.arange(len(p))),
    "top_k": ({"top_k": 3}, lambda p, _: top_k(p, 3)),
    "top_p": ({"top_p": 0.7}, lambda p, _: top_p(p, 0.7)),
    "top_p after temperature": ({"top_p": 0.7, "temperature": 3.0}, lambda p, _: top_p(p, 0.7)),
    "min_p": ({"min_p": 0.2}, lambda p, _: np.flatnonzero(p >= 0.2 * p.max())),
    "typical_p": ({"typical_p": 0.5}, lambda p, _: typical(p, 0.5)),
    "top_n_sigma": ({"top_n_sigma": 2.0}, lambda p, v: top_n_sigma(p, 2.0, 1.0, v)),
    "xtc": (
        {"xtc_probability": 1.0, "xtc_threshold": 0.15},
        lambda p, _: xtc(p, 0.15),
    ),
    "mirostat 2": (
        {"mirostat": 2, "mirostat_tau": 1.2},
        lambda p, _: np.flatnonzero(-np.log2(p) <= 2 * 1.2),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_draws_follow_the_reference_distribution(make, tiny_model, name):
    params, kept_of = CASES[name]
    p = softmax(LOGITS / params.get("temperature", 1.0))
    kept = kept_of(p, tiny_model.vocab_size)
    expected = np.zeros(len(p))
    expected[kept] = p[kept] / p[kept].sum()
    counts = np.zeros(len(p))
    logits = row(tiny_model)
    for seed in range(NUM_DRAWS):
        sampler = make(seed=seed, **params)
        counts[sampler.choose(logits) - LIKELY[0]] += 1
        sampler.close()
    assert counts[expected == 0].sum() == 0
    # Five standard errors: a wrong distribution is off by more, a right one never by as much.
    bound = 5 * np.sqrt(expected * (1 - expected) / NUM_DRAWS) + 1e-9
    assert (np.abs(counts / NUM_DRAWS - expected) <= bound).all()


def test_mirostat_1_holds_the_surprise_near_its_target(make, tiny_model):
    logits = row(tiny_model, np.linspace(2.0, 0.0, len(LOGITS)))
    p = softmax(logits[LIKELY].astype(np.float64))
    means = []
    for tau in (1.0, 2.9):
        sampler = make(seed=1, mirostat=1, mirostat_tau=tau)
        drawn = [sampler.choose(logits) - LIKELY[0] for _ in range(200)]
        means.append(float(np.mean(-np.log2(p[drawn]))))
        sampler.close()
    assert means[0] < means[1]


def greedy(make, tiny_model, values, *, prompt=(5, 6, 7), completion=(), **params) -> int:
    sampler = make(prompt, temperature=0.0, **params)
    for token_id in completion:
        sampler.accept(token_id)
    return sampler.choose(row(tiny_model, values)) - LIKELY[0]


@pytest.mark.parametrize("seed", range(5))
def test_penalties_are_the_formulas(make, tiny_model, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 2, len(LOGITS))
    completion = rng.integers(0, len(LOGITS), 6)
    counts = np.bincount(completion, minlength=len(LOGITS))
    chosen = greedy(
        make, tiny_model, values, completion=LIKELY[completion],
        presence_penalty=0.7, frequency_penalty=0.4,
    )  # fmt: skip
    assert chosen == np.argmax(values - 0.7 * (counts > 0) - 0.4 * counts)
    seen = counts > 0
    repeated = np.where(values > 0, values / 1.6, values * 1.6)
    chosen = greedy(
        make, tiny_model, values, prompt=LIKELY[completion].tolist(), repeat_penalty=1.6
    )
    assert chosen == np.argmax(np.where(seen, repeated, values))


def test_repeat_penalty_looks_back_over_its_window(make, tiny_model):
    prompt = [int(LIKELY[0]), 5, 6, 7]
    common = {"prompt": prompt, "repeat_penalty": 3.0}
    assert greedy(make, tiny_model, LOGITS, repeat_last_n=4, **common) == 1
    assert greedy(make, tiny_model, LOGITS, repeat_last_n=-1, **common) == 1
    for window in (3, 0):
        assert greedy(make, tiny_model, LOGITS, repeat_last_n=window, **common) == 0


@pytest.mark.parametrize("length", [2, 3, 5])
def test_dry_grows_with_the_length_of_the_repetition(make, tiny_model, length):
    # The prompt ends as it began; LIKELY[0] would prolong the repetition.
    repeated = list(range(2000, 2000 + length))
    prompt = [*repeated, int(LIKELY[0]), 9, *repeated]
    penalty = 0.5 * 1.3 ** (length - 2)
    params = {
        "prompt": prompt, "dry_multiplier": 0.5, "dry_base": 1.3, "dry_allowed_length": 2,
        "dry_sequence_breakers": (),
    }  # fmt: skip
    for gap, expected in ((penalty * 1.05, 0), (penalty * 0.95, 1)):
        values = np.full(len(LOGITS), -5.0)
        values[:2] = [gap, 0.0]
        assert greedy(make, tiny_model, values, **params) == expected
    assert greedy(make, tiny_model, values, **{**params, "dry_penalty_last_n": 2}) == 0


def test_only_what_is_allowed_is_drawn(make, tiny_model):
    allowed = np.zeros(tiny_model.vocab_size, bool)
    allowed[LIKELY[[2, 5]]] = True
    p = softmax(LOGITS[[2, 5]])
    drawn = [make(seed=s).choose(row(tiny_model), allowed) - LIKELY[0] for s in range(200)]
    assert set(drawn) == {2, 5}
    assert np.mean(np.equal(drawn, 2)) == pytest.approx(p[0], abs=0.15)
    assert make(temperature=0.0).choose(row(tiny_model), allowed) == LIKELY[2]


def test_end_tokens_can_be_ignored(make, tiny_model):
    logits = row(tiny_model)
    logits[list(tiny_model.end_tokens)] = 100.0
    assert make(temperature=0.0).choose(logits) in tiny_model.end_tokens
    assert make(temperature=0.0, ignore_eos=True).choose(logits) == LIKELY[0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("params", [{"temperature": 0.0}, {"temperature": 1.0, "seed": 1}])
def test_logits_of_a_poisoned_model_are_an_error(make, tiny_model, value, params):
    logits = row(tiny_model)
    logits[:] = value if value == -np.inf else logits
    logits[77] = value
    with pytest.raises(BackendError, match="cannot be sampled"):
        make(**params).choose(logits)


@pytest.mark.parametrize("params", [{"temperature": 0.0}, {"temperature": 1.0, "seed": 1}])
def test_biases_that_leave_no_token_are_the_requests_fault(make, tiny_model, params):
    allowed = np.zeros(tiny_model.vocab_size, bool)
    allowed[LIKELY[0]] = True
    sampler = make(logit_bias={LIKELY[0]: -math.inf}, **params)
    with pytest.raises(InvalidRequestError, match="forbids all tokens"):
        sampler.choose(row(tiny_model), allowed)


def test_a_temperature_that_overflows_is_greedy(make, tiny_model):
    for seed in range(5):
        assert make(temperature=1e-38, seed=seed).choose(row(tiny_model)) == LIKELY[0]
