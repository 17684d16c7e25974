"""The engine without vLLM: a module of that name which records what it is told."""

import sys
from collections import deque
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generate.engine import ENVIRONMENT, SampleRequest, TeacherEngine, _to_logprobs, derive_seed
from potstill.errors import TeacherError
from potstill.schema import SamplingParams

OPTIONS = {
    "dtype": "bfloat16",
    "max_model_len": 300,
    "top_logprobs": 2,
    "max_num_seqs": 2,
    "kv_cache_bytes": 1 << 20,
    "enforce_eager": True,
    "tensor_parallel_size": 1,
    "seed": 7,
}


@given(st.integers(0, 2**40), st.text())
def test_a_seed_is_of_31_bits(seed, name):
    assert 0 <= derive_seed(seed, name) < 2**31


def test_seeds_are_stable_and_apart():
    """Stored conversations carry them: a change here makes other answers."""
    assert derive_seed(0, "prompt 1") == 1_815_589_676
    assert derive_seed(1, "0") != derive_seed(0, "1")
    assert len({derive_seed(seed, f"p{n}") for seed in range(10) for n in range(100)}) == 1000


def flat_logprobs(positions):
    """Lay positions out as vLLM's FlatLogprobs does: the sampled token, then the top by rank."""
    flat = SimpleNamespace(start_indices=[], end_indices=[], token_ids=[], logprobs=[])
    for position in positions:
        flat.start_indices.append(len(flat.token_ids))
        for token_id, logprob in position:
            flat.token_ids.append(token_id)
            flat.logprobs.append(logprob)
        flat.end_indices.append(len(flat.token_ids))
    return flat


def test_log_probabilities_are_split_into_the_sampled_one_and_the_top():
    flat = flat_logprobs(
        [
            [(9, -5.0), (4, -0.5), (5, -1.0), (6, -2.0)],
            [(4, -0.25), (4, -0.25), (7, -1.5), (8, -3.0)],
        ]
    )
    logprobs = _to_logprobs(flat, 3)
    assert logprobs.sampled_logprobs == (-5.0, -0.25)
    assert logprobs.top_token_ids == ((4, 5, 6), (4, 7, 8))
    assert logprobs.top_logprobs == ((-0.5, -1.0, -2.0), (-0.25, -1.5, -3.0))


def test_no_more_than_was_asked_for_is_stored():
    flat = flat_logprobs([[(9, -5.0), (4, -0.5), (5, -1.0)], [(4, -0.5), (4, -0.5), (9, -5.0)]])
    assert _to_logprobs(flat, 1).top_token_ids == ((4,), (4,))


def test_positions_of_other_lengths_do_not_run_into_each_other():
    """vLLM pads nothing: a vocabulary smaller than k would end a position early."""
    flat = flat_logprobs([[(9, -5.0), (4, -0.5)], [(4, -0.25), (4, -0.25), (7, -1.5)]])
    assert _to_logprobs(flat, 1).top_token_ids == ((4,), (4,))
    assert _to_logprobs(flat, 1).sampled_logprobs == (-5.0, -0.25)


class FakeLLM:
    """vLLM's `LLM`: one request ends at each step, the newest of those that run."""

    def __init__(self, model, **options):
        self.told = {"model": model, **options}
        self.generation_config = {"eos_token_id": [2, 5]}
        self.model_config = SimpleNamespace(
            try_get_generation_config=lambda: self.generation_config
        )
        self.llm_engine = self
        self.running: deque = deque()
        self.most_running, self.num_enqueued = 0, 0
        self.params: list = []
        self.aborted: list[str] = []

    def get_tokenizer(self):
        return SimpleNamespace(eos_token_id=2)

    def enqueue(self, prompts, params, *, use_tqdm):
        assert not use_tqdm
        names = []
        for prompt in prompts:
            self.running.append((str(self.num_enqueued), prompt["prompt_token_ids"]))
            names.append(f"{self.num_enqueued}-a1b2")
            self.num_enqueued += 1
        self.params += params
        self.most_running = max(self.most_running, len(self.running))
        return names

    def step(self):
        name, prompt = self.running.pop()
        completion = SimpleNamespace(
            token_ids=[*prompt, 2],
            finish_reason="stop" if prompt[0] % 2 else "length",
            logprobs=flat_logprobs([[(9, -5.0), (4, -0.5), (5, -1.0)]] * (len(prompt) + 1)),
        )
        unfinished = [SimpleNamespace(finished=False) for _ in self.running]
        return [*unfinished, SimpleNamespace(finished=True, request_id=name, outputs=[completion])]

    def abort_request(self, names, *, internal):
        assert internal
        self.aborted += names


@pytest.fixture
def environment(monkeypatch):
    environment: dict[str, str] = {}
    monkeypatch.setattr("generate.engine.os", SimpleNamespace(environ=environment))
    return environment


@pytest.fixture
def make_engine(monkeypatch, environment):
    """Return a function that loads a fake vLLM, and the fake itself."""

    def make(llm=FakeLLM, **options):
        module = ModuleType("vllm")
        module.LLM = llm
        module.SamplingParams = SimpleNamespace
        monkeypatch.setitem(sys.modules, "vllm", module)
        engine = TeacherEngine("a teacher", **(OPTIONS | options))
        return engine, engine._llm

    assert environment == {}
    return make


def requests(count):
    sampling = SamplingParams(temperature=0.5, top_p=0.9, max_tokens=8, seed=3)
    return [SampleRequest(f"r{number}", (number, 1), sampling) for number in range(count)]


def test_vllm_is_told_all_options_and_to_return_raw_log_probabilities(make_engine):
    _, llm = make_engine()
    expected = {
        "model": "a teacher",
        "dtype": "bfloat16",
        "max_model_len": 300,
        "max_logprobs": 2,
        "logprobs_mode": "raw_logprobs",
        "max_num_seqs": 2,
        "kv_cache_memory_bytes": 1 << 20,
        "enforce_eager": True,
        "tensor_parallel_size": 1,
        "enable_chunked_prefill": False,
        "generation_config": "vllm",
        "seed": 7,
    }
    assert {key: llm.told[key] for key in expected} == expected
    assert llm.told["max_num_batched_tokens"] >= 300


@pytest.mark.parametrize("max_model_len", [300, 10_000])
def test_the_longest_prompt_fits_a_batch_because_prompts_are_read_whole(make_engine, max_model_len):
    _, llm = make_engine(max_model_len=max_model_len)
    assert llm.told["max_num_batched_tokens"] >= max_model_len


def test_no_memory_named_leaves_the_choice_to_vllm(make_engine):
    _, llm = make_engine(kv_cache_bytes=0)
    assert llm.told["kv_cache_memory_bytes"] is None


def test_the_environment_is_set_where_the_user_has_not(make_engine, environment):
    environment["VLLM_LOGGING_LEVEL"] = "DEBUG"
    make_engine()
    assert environment == ENVIRONMENT | {"VLLM_LOGGING_LEVEL": "DEBUG"}


def test_a_model_that_vllm_cannot_load_is_an_error_of_one_line(make_engine):
    def refuse(*_args, **_options):
        raise ValueError("\nunknown architecture\n  and a long explanation")

    with pytest.raises(TeacherError, match="vLLM cannot load the teacher") as caught:
        make_engine(refuse)
    assert caught.value.where == "a teacher"
    assert caught.value.found == "unknown architecture"


def test_requests_are_answered_under_their_own_names_as_they_end(make_engine):
    engine, _ = make_engine()
    samples = list(engine.sample(requests(5), top_logprobs=2))
    assert sorted(sample.request_id for sample in samples) == [f"r{n}" for n in range(5)]
    assert samples[0].request_id != "r0"
    by_name = {sample.request_id: sample for sample in samples}
    assert by_name["r4"].token_ids == (4, 1, 2)
    assert by_name["r4"].finish_reason == "length"
    assert by_name["r3"].finish_reason == "stop"
    assert by_name["r3"].logprobs.top_token_ids == ((4, 5),) * 3


def test_what_is_asked_reaches_vllm(make_engine):
    engine, llm = make_engine()
    (sample,) = engine.sample(requests(1), top_logprobs=None)
    assert sample.logprobs is None
    (params,) = llm.params
    assert vars(params) == {
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 8,
        "seed": 3,
        "stop_token_ids": [2, 5],
        "logprobs": None,
        "flat_logprobs": True,
        "detokenize": False,
    }


@pytest.mark.parametrize(
    ("config", "expected"),
    [({"eos_token_id": [2, 5]}, {2, 5}), ({"eos_token_id": 5}, {5}), ({}, {2})],
)
def test_a_completion_ends_with_what_the_checkpoint_names(make_engine, config, expected):
    engine, llm = make_engine()
    llm.generation_config = config
    assert engine.end_token_ids == expected


def test_requests_may_be_endless_and_closing_drops_what_runs(make_engine):
    def endless():
        while True:
            yield from requests(1)

    engine, llm = make_engine()
    samples = engine.sample(endless(), top_logprobs=2)
    for _ in range(10):
        next(samples)
    samples.close()
    assert llm.most_running == 2 * OPTIONS["max_num_seqs"]
    assert llm.num_enqueued == 10 + llm.most_running - 1
    assert sorted(name.partition("-")[0] for name in llm.aborted) == sorted(
        name for name, _ in llm.running
    )


def test_nothing_asked_means_nothing_run(make_engine):
    engine, llm = make_engine()
    assert list(engine.sample([], top_logprobs=2)) == []
    assert llm.num_enqueued == 0


@pytest.mark.parametrize("error", [ValueError, RuntimeError])
def test_a_failure_while_sampling_is_an_error_of_ours_and_drops_what_runs(make_engine, error):
    engine, llm = make_engine()
    llm.step = lambda: (_ for _ in ()).throw(error("the engine died"))
    with pytest.raises(TeacherError, match=r"while sampling(.|\n)*the engine died"):
        list(engine.sample(requests(3), top_logprobs=2))
    assert len(llm.aborted) == 3


def test_closing_lets_the_model_go(make_engine):
    engine, _ = make_engine()
    engine.close()
    assert not hasattr(engine, "_llm")
