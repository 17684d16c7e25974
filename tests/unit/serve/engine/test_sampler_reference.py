"""Every sampling parameter beside a reference in numpy, in float64, on logits made by hand."""

import numpy as np
import pytest

from potstill.errors import BackendError
from serve.engine.model import GgufModel
from serve.engine.sampler import Candidates, Sampler, SamplerParams

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


def test_repeat_penalty_looks_back_as_far_as_it_is_told(make, tiny_model):
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


def test_a_temperature_that_overflows_is_greedy(make, tiny_model):
    for seed in range(5):
        assert make(temperature=1e-38, seed=seed).choose(row(tiny_model)) == LIKELY[0]
