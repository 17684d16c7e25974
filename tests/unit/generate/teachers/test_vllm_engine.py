"""The engine without vLLM: a module of that name that records its arguments."""

import json
import sys
from collections import deque
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest
from pydantic import TypeAdapter

from generate.teachers import vllm_engine
from generate.teachers.config import EngineConfig
from generate.teachers.cpu_sampling import install
from generate.teachers.protocol import Failure, SampleRequest, ScoreRequest
from generate.teachers.vllm_engine import (
    ENVIRONMENT,
    LORA_RANKS,
    M_MMAP_THRESHOLD,
    M_TRIM_THRESHOLD,
    EngineSpec,
    VllmTeacher,
)
from potstill.errors import TeacherError
from potstill.schema import SamplingParams
from tests.fixtures.feeding import feed

SPEC = EngineSpec("a teacher", "bfloat16", max_model_len=300, max_logprobs=2, seed=7)
ENGINE = EngineConfig(max_num_seqs=2, kv_cache_bytes=1 << 20)


def flat_logprobs(num_tokens, num_empty=0) -> SimpleNamespace:
    """Return vLLM's FlatLogprobs of tokens with the same entries: the token itself, and the top 2.

    Args:
        num_empty: Positions without entries before them: 1 for a prompt.
    """
    return SimpleNamespace(
        start_indices=[0] * num_empty + [3 * index for index in range(num_tokens)],
        token_ids=[9, 4, 5] * num_tokens,
        logprobs=[-5.0, -0.5, -1.0] * num_tokens,
    )


class Params(SimpleNamespace):
    def clone(self):
        return Params(**vars(self))


class FakeLLM:
    """vLLM's `LLM`: one request ends at each step, the newest of those that run.

    A prompt of an odd first token ends with an end token, of 13 with an error.
    """

    def __init__(self, model, **options):
        self.arguments = {"model": model, **options}
        self.generation_config = {"eos_token_id": [2, 5]}
        self.model_config = SimpleNamespace(
            try_get_generation_config=lambda: self.generation_config
        )
        self.llm_engine = self
        self.running: deque = deque()
        self.most_running = self.num_enqueued = 0
        self.params: list = []
        self.lora: set = set()
        self.calls: list = []
        self.aborted: list[str] = []

    def collective_rpc(self, function):
        self.calls.append(function)

    def get_tokenizer(self):
        return SimpleNamespace(eos_token_id=2)

    def enqueue(self, prompts, params, *, use_tqdm, lora_request):
        assert not use_tqdm
        assert len({id(one) for one in params}) == len(prompts)
        self.lora.add(lora_request)
        self.params += params
        names = []
        for prompt in prompts:
            self.running.append((str(self.num_enqueued), prompt["prompt_token_ids"]))
            names.append(f"{self.num_enqueued}-a1b2")
            self.num_enqueued += 1
        self.most_running = max(self.most_running, len(self.running))
        return names

    def step(self):
        name, prompt = self.running.pop()
        reason = "stop" if prompt[0] % 2 else "length"
        completion = SimpleNamespace(
            token_ids=[*prompt, 2],
            finish_reason="error" if prompt[0] == 13 else reason,
            logprobs=flat_logprobs(len(prompt) + 1),
        )
        output = SimpleNamespace(
            finished=True,
            request_id=name,
            outputs=[completion],
            prompt_logprobs=flat_logprobs(len(prompt) - 1, num_empty=1),
        )
        return [*(SimpleNamespace(finished=False) for _ in self.running), output]

    def abort_request(self, names, *, internal):
        assert internal
        self.aborted += names


@pytest.fixture
def environment(monkeypatch) -> dict[str, str]:
    environment: dict[str, str] = {}
    monkeypatch.setattr(vllm_engine, "os", SimpleNamespace(environ=environment))
    return environment


@pytest.fixture
def load(monkeypatch, environment):
    """Return a function that loads a fake vLLM; the teacher, and the fake itself.

    Its platform is a GPU by default.
    """
    platform = SimpleNamespace(is_cpu=lambda: False)
    model_config = SimpleNamespace()

    class EngineArgs(Params):
        def create_model_config(self):
            return model_config

    modules = {
        "vllm": {"LLM": FakeLLM, "SamplingParams": Params},
        "vllm.lora.request": {"LoRARequest": lambda *what: what},
        "vllm.engine.arg_utils": {"EngineArgs": EngineArgs},
        "vllm.platforms": {"current_platform": platform},
    }
    for name in ("vllm.lora", "vllm.engine", *modules):
        module = ModuleType(name)
        vars(module).update(modules.get(name, {}))
        monkeypatch.setitem(sys.modules, name, module)
    assert environment == {}

    def make(llm=FakeLLM, engine=ENGINE, *, on_cpu=False, is_hybrid=False, **spec):
        platform.is_cpu = lambda: on_cpu
        model_config.is_hybrid = is_hybrid
        sys.modules["vllm"].LLM = llm
        teacher = VllmTeacher(replace(SPEC, **spec), engine)
        return teacher, teacher._llm

    return make


def requests(count) -> list[SampleRequest]:
    sampling = SamplingParams(temperature=0.5, top_p=0.9, max_tokens=8, seed=3)
    return [SampleRequest(f"r{number}", (number, 1), sampling) for number in range(count)]


def sample(teacher, items, top_logprobs=2) -> dict:
    found = list(teacher.sample(feed(items), top_logprobs=top_logprobs))
    assert len({one.request_id for one in found}) == len(found)
    return {one.request_id: one for one in found}


def test_vllm_gets_all_options_and_returns_raw_log_probabilities(load):
    teacher, llm = load()
    assert llm.arguments == {
        "model": "a teacher",
        "dtype": "bfloat16",
        "max_model_len": 300,
        "max_logprobs": 2,
        "logprobs_mode": "raw_logprobs",
        "max_num_seqs": 2,
        "kv_cache_memory_bytes": 1 << 20,
        "enforce_eager": True,
        "tensor_parallel_size": 1,
        "use_tqdm_on_load": False,
        "generation_config": "vllm",
        "seed": 7,
    }
    assert teacher.max_num_seqs == 2
    assert teacher.facts() == {"logprobs_mode": "raw_logprobs"}


@pytest.fixture
def malloc_options(monkeypatch) -> list[tuple[int, int]]:
    """Record the options of glibc's malloc."""
    options: list[tuple[int, int]] = []
    libc = SimpleNamespace(mallopt=lambda *option: options.append(option))
    monkeypatch.setattr(vllm_engine, "ctypes", SimpleNamespace(CDLL=lambda _: libc))
    return options


def test_a_gpu_has_vllms_own_batches_sampler_and_allocator(load, malloc_options):
    _, llm = load()
    assert not {"enable_chunked_prefill", "max_num_batched_tokens"} & llm.arguments.keys()
    assert llm.calls == malloc_options == []


@pytest.mark.parametrize("is_fast", [True, False])
@pytest.mark.parametrize(("longest", "batch"), [(300, 4096), (10_000, 10_000)])
def test_a_cpu_prefills_whole_prompts_and_has_another_sampler_where_it_is_wanted(
    load, malloc_options, is_fast, longest, batch
):
    engine = ENGINE.model_copy(update={"fast_cpu_sampling": is_fast})
    _, llm = load(engine=engine, on_cpu=True, max_model_len=longest)
    assert llm.arguments["enable_chunked_prefill"] is False
    assert llm.arguments["max_num_batched_tokens"] == batch
    assert llm.calls == [install] * is_fast
    assert [option for option, _ in malloc_options] == [M_MMAP_THRESHOLD, M_TRIM_THRESHOLD]


def test_the_engines_table_reaches_vllm(load):
    engine = EngineConfig(
        max_num_seqs=9, kv_cache_bytes=0, enforce_eager=False, tensor_parallel_size=4
    )
    _, llm = load(engine=engine)
    assert llm.arguments["max_num_seqs"] == 9
    assert llm.arguments["kv_cache_memory_bytes"] is None
    assert llm.arguments["enforce_eager"] is False
    assert llm.arguments["tensor_parallel_size"] == 4


def test_the_environment_is_set_where_the_user_has_not(load, environment):
    environment["VLLM_LOGGING_LEVEL"] = "DEBUG"
    load()
    assert environment == ENVIRONMENT | {"VLLM_LOGGING_LEVEL": "DEBUG"}


@pytest.mark.parametrize("kind", [OSError, ValueError, RuntimeError])
@pytest.mark.parametrize(
    ("said", "found"),
    [("\nunknown architecture\n  and a long explanation", "unknown architecture"), ("", None)],
)
def test_a_model_that_vllm_cannot_load_is_an_error_of_one_line(load, kind, said, found):
    def refuse(*_args, **_options):
        raise kind(said)

    with pytest.raises(TeacherError, match="vLLM cannot load the teacher") as caught:
        load(refuse)
    assert caught.value.where == "a teacher"
    assert caught.value.found == (found or kind.__name__)


@pytest.mark.parametrize("on_cpu", [True, False])
def test_prefixes_are_not_cached_for_recurrent_layers_on_a_cpu(load, on_cpu):
    _, llm = load(on_cpu=on_cpu, is_hybrid=True)
    assert llm.arguments.get("enable_prefix_caching") == (False if on_cpu else None)
    _, llm = load(on_cpu=on_cpu)
    assert "enable_prefix_caching" not in llm.arguments


def test_a_configuration_that_vllm_refuses_is_named_with_its_reason(load):
    def refuse(*_args, **_options):
        TypeAdapter(dict[str, int]).validate_python({"max_model_len": "long"})

    with pytest.raises(TeacherError) as caught:
        load(refuse)
    assert "valid integer" in caught.value.found


@pytest.mark.parametrize(
    ("rank", "reserved"), [(1, 8), (8, 8), (9, 16), (256, 256), (300, 320), (512, 512)]
)
def test_an_adapter_gets_the_smallest_room_that_holds_its_rank(load, tmp_path, rank, reserved):
    modules = ["q_proj", "v_proj"]
    adapter = {"r": rank, "target_modules": modules}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    teacher, llm = load(lora_path=tmp_path)
    assert llm.arguments["lora_target_modules"] == modules
    assert (llm.arguments["enable_lora"], llm.arguments["max_lora_rank"]) == (True, reserved)
    sample(teacher, requests(1))
    assert llm.lora == {("teacher", 1, str(tmp_path))}


@pytest.mark.parametrize("modules", [None, "all-linear", ["layers.0.q_proj"]])
def test_modules_that_are_no_plain_names_are_left_to_vllm(load, tmp_path, modules):
    adapter = {"r": 8, "target_modules": modules}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    _, llm = load(lora_path=tmp_path)
    assert llm.arguments["lora_target_modules"] is None


def test_without_an_adapter_none_is_asked_for(load):
    teacher, llm = load()
    sample(teacher, requests(1))
    assert llm.lora == {None}


@pytest.mark.parametrize("content", [None, "{", "{}", "[]", '{"r": null}', '{"r": 513}'])
def test_an_adapter_that_cannot_be_used_is_an_error_that_names_it(load, tmp_path, content):
    path = tmp_path / "adapter_config.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(TeacherError, match="LoRA adapter cannot be read") as caught:
        load(lora_path=tmp_path)
    assert caught.value.where == path
    assert str(LORA_RANKS[-1]) in caught.value.expected
    assert caught.value.found


def test_requests_are_answered_under_their_own_names_as_they_end(load):
    teacher, _ = load()
    samples = sample(teacher, requests(5))
    assert sorted(samples) == [f"r{n}" for n in range(5)]
    assert next(iter(samples)) == "r3"
    assert samples["r4"].token_ids == (4, 1, 2)
    assert (samples["r4"].finish_reason, samples["r3"].finish_reason) == ("length", "stop")
    assert samples["r3"].signal.top_token_ids_N.tolist() == [4, 5] * 3
    assert samples["r3"].signal.sampled_logprobs_T.tolist() == [-5.0] * 3


def test_what_is_asked_reaches_vllm(load):
    teacher, llm = load()
    (found,) = sample(teacher, requests(1), top_logprobs=None).values()
    assert found.signal is None
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
        "structured_outputs": None,
    }


def test_a_request_that_vllm_ends_otherwise_has_failed_and_others_go_on(load):
    teacher, _ = load()
    found = sample(teacher, requests(20))
    assert found.pop("r13") == Failure("r13", "vLLM ended it with error")
    assert not any(isinstance(one, Failure) for one in found.values())


def test_a_text_is_scored_from_a_position_on(load):
    teacher, llm = load()
    texts = [ScoreRequest("a", (4, 6, 7, 8, 2), 3), ScoreRequest("b", (4, 6, 7), 1)]
    found = {one.request_id: one for one in teacher.score(feed(texts), top_logprobs=2)}
    assert found["a"].token_ids == (8, 2)
    assert found["b"].token_ids == (6, 7)
    assert (found["a"].finish_reason, found["b"].finish_reason) == ("stop", "length")
    assert [len(found[name].signal.counts_T) for name in "ab"] == [2, 2]
    assert found["a"].signal.top_token_ids_N.tolist() == [4, 5] * 2
    for params in llm.params:
        assert vars(params) == {
            "max_tokens": 1,
            "temperature": 0.0,
            "prompt_logprobs": 2,
            "flat_logprobs": True,
            "detokenize": False,
        }


@pytest.mark.parametrize(
    ("config", "expected"),
    [({"eos_token_id": [2, 5]}, {2, 5}), ({"eos_token_id": 5}, {5}), ({}, {2})],
)
def test_a_completion_ends_with_what_the_checkpoint_names(load, config, expected):
    teacher, llm = load()
    llm.generation_config = config
    assert teacher.end_token_ids == expected


def test_requests_may_be_endless_and_closing_drops_what_runs(load):
    teacher, llm = load()
    samples = teacher.sample(requests, top_logprobs=2)
    for _ in range(10):
        next(samples)
    samples.close()
    assert llm.most_running == 2 * ENGINE.max_num_seqs
    assert llm.num_enqueued == 10 + llm.most_running - 1
    assert [name.partition("-")[0] for name in llm.aborted] == [name for name, _ in llm.running]


def test_a_request_may_follow_from_the_last_result(load):
    """Nothing is in flight when a result is taken, but the next request is there."""
    teacher, _ = load()
    waiting = requests(1)
    names = []
    for result in teacher.sample(lambda _: [waiting.pop()] if waiting else [], top_logprobs=2):
        names.append(result.request_id)
        if len(names) < 3:
            waiting.append(replace(requests(1)[0], request_id=f"follows {result.request_id}"))
    assert names == ["r0", "follows r0", "follows follows r0"]


def test_nothing_asked_means_nothing_run(load):
    teacher, llm = load()
    assert sample(teacher, []) == {}
    assert llm.num_enqueued == 0


@pytest.mark.parametrize("error", [ValueError, RuntimeError])
def test_a_failure_while_sampling_is_an_error_of_ours_and_drops_what_runs(load, error):
    teacher, llm = load()
    llm.step = lambda: (_ for _ in ()).throw(error("the engine died"))
    with pytest.raises(TeacherError, match=r"while sampling(.|\n)*the engine died"):
        sample(teacher, requests(3))
    assert len(llm.aborted) == 3


def test_an_error_of_ours_while_requests_are_made_passes_as_it_is(load):
    teacher, _ = load()

    def fail(_):
        raise TeacherError("the user's model is gone")

    with pytest.raises(TeacherError, match="the user's model is gone"):
        list(teacher.sample(fail, top_logprobs=2))


def test_closing_lets_the_model_go(load):
    teacher, _ = load()
    teacher.close()
    assert not hasattr(teacher, "_llm")
