"""The real teacher in vLLM: what it samples and scores, and in what form."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.generate._workload import vllms_own_sampler
from generate.teachers.config import EngineConfig
from generate.teachers.protocol import SampleRequest, ScoreRequest
from generate.teachers.vllm_engine import EngineSpec, engine_arguments
from potstill.chat import render_prompt
from potstill.config import preset_names, read_preset
from potstill.schema import Message, SamplingParams
from serve.backends.config import VllmConfig
from serve.backends.vllm import server_arguments
from tests.fixtures.feeding import feed

from .conftest import TOP_LOGPROBS

QUESTIONS = (
    "Why is the sky blue?",
    "Name three rivers.",
    "How do I boil an egg?",
    "What is 12 times 12?",
    "Write a line about the sea.",
)


def requests(teacher, max_tokens=24) -> list[SampleRequest]:
    return [
        SampleRequest(
            f"request {number}",
            render_prompt(teacher.tokenizer, [Message(role="user", content=question)]),
            SamplingParams(temperature=1.0, top_p=1.0, max_tokens=max_tokens, seed=number),
        )
        for number, question in enumerate(QUESTIONS)
    ]


def sample(teacher, items, top_logprobs=TOP_LOGPROBS):
    found = list(teacher.sample(feed(items), top_logprobs=top_logprobs))
    return {one.request_id: one for one in found}


def test_the_arguments_for_cpus_and_gpus_are_vllms_own(teacher_dir):
    from vllm.engine.arg_utils import EngineArgs

    spec = EngineSpec(str(teacher_dir), "bfloat16", max_model_len=300, max_logprobs=2, seed=7)
    for on_cpu in (True, False):
        arguments = engine_arguments(spec, EngineConfig(), on_cpu=on_cpu)
        accepted = EngineArgs(**arguments)
        assert {name: getattr(accepted, name) for name in arguments} == arguments
        assert (accepted.enable_chunked_prefill, accepted.max_num_batched_tokens) == (
            (False, 4096) if on_cpu else (None, None)
        )


@pytest.mark.parametrize("preset", [name for name in preset_names() if name.startswith("gpu")])
def test_the_presets_for_gpus_have_arguments_of_vllms_own(preset, teacher_dir):
    from vllm.engine.arg_utils import EngineArgs

    engine = EngineConfig(**read_preset(preset)["generate"]["engine"])
    spec = EngineSpec(str(teacher_dir), "bfloat16", max_model_len=300, max_logprobs=64, seed=7)
    accepted = EngineArgs(**engine_arguments(spec, engine, on_cpu=False))
    assert accepted.kv_cache_memory_bytes is None
    assert not accepted.enforce_eager
    assert accepted.tensor_parallel_size == engine.tensor_parallel_size


def test_the_arguments_of_a_served_student_are_vllms_own(teacher_dir):
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    options = ("--tensor-parallel-size=2", "--enable-auto-tool-choice", "--tool-call-parser=hermes")
    arguments = server_arguments(
        "student",
        teacher_dir,
        VllmConfig(options=options),
        port=8123,
        context_tokens=300,
        max_parallel=4,
        sampling={"temperature": 0.5},
    )
    parsed = make_arg_parser(FlexibleArgumentParser()).parse_args(arguments)
    validate_parsed_serve_args(parsed)
    assert (parsed.model, parsed.served_model_name) == (str(teacher_dir), ["student"])
    assert (parsed.port, parsed.max_model_len, parsed.max_num_seqs) == (8123, 300, 4)
    assert (parsed.tensor_parallel_size, parsed.tool_call_parser) == (2, "hermes")
    assert parsed.override_generation_config == {"temperature": 0.5}


def test_the_faster_sampler_returns_vllms_own_distributions(teacher):
    asked = requests(teacher)
    ours = sample(teacher, asked)
    with vllms_own_sampler(teacher):
        theirs = sample(teacher, asked)
    for name, one in ours.items():
        first = slice(TOP_LOGPROBS)  # Tokens that are drawn after it differ.
        np.testing.assert_allclose(
            one.signal.top_logprobs_N[first], theirs[name].signal.top_logprobs_N[first], atol=1e-4
        )


def test_a_sample_scored_again_has_the_same_log_probabilities(teacher):
    """Sampling goes token by token and scoring all at once: they differ by rounding."""
    asked = requests(teacher)
    found = sample(teacher, asked)
    texts = [
        ScoreRequest(
            one.request_id,
            [*one.prompt_token_ids, *found[one.request_id].token_ids],
            len(one.prompt_token_ids),
        )
        for one in asked
    ]
    for scored in teacher.score(feed(texts), top_logprobs=TOP_LOGPROBS):
        drawn = found[scored.request_id]
        assert scored.token_ids == drawn.token_ids
        difference = scored.signal.sampled_logprobs_T - drawn.signal.sampled_logprobs_T
        assert np.abs(difference).max() < 1e-3


def test_distributions_fall_and_leave_a_tail(teacher):
    for one in sample(teacher, requests(teacher)).values():
        signal = one.signal
        assert set(signal.counts_T) == {TOP_LOGPROBS}
        assert len(signal.counts_T) == len(one.token_ids)
        assert ((signal.tail_mass_T >= 0) & (signal.tail_mass_T < 0.9)).all()


def test_without_log_probabilities_there_is_no_signal(teacher):
    found = sample(teacher, requests(teacher)[:2], top_logprobs=None)
    assert [one.signal for one in found.values()] == [None, None]


def test_a_request_may_follow_from_a_result(teacher):
    """A conversation's next turn is asked while others are under way."""
    first, second, *_ = requests(teacher)
    waiting = [first]

    def take(_room):
        taken = list(waiting)
        waiting.clear()
        return taken

    names = []
    for result in teacher.sample(take, top_logprobs=None):
        names.append(result.request_id)
        if result.request_id == first.request_id:
            waiting.append(second)
    assert names == [first.request_id, second.request_id]


def test_a_lora_adapter_changes_what_the_teacher_says(teacher, adapted_teacher, adapted_model):
    import torch

    request = requests(teacher, max_tokens=1)[0]
    without = sample(teacher, [request])[request.request_id].signal
    with_adapter = sample(adapted_teacher, [request])[request.request_id].signal
    ids = torch.tensor([list(request.prompt_token_ids)])
    with torch.no_grad():
        wanted = adapted_model(ids).logits[0, -1].log_softmax(-1).numpy()
    found = wanted[with_adapter.top_token_ids_N]
    np.testing.assert_allclose(with_adapter.top_logprobs_N, found, atol=1e-3)
    assert np.abs(without.top_logprobs_N - wanted[without.top_token_ids_N]).max() > 0.1


def test_under_a_schema_the_log_probabilities_stay_the_models_own(teacher):
    """Also those of requests beside it, and of texts that are scored later."""
    schema = '{"type": "object", "properties": {"team": {"enum": ["cards", "loans"]}}, ' \
        '"required": ["team"], "additionalProperties": false}'  # fmt: skip
    plain = requests(teacher)
    bound = [replace(one, request_id=f"bound {one.request_id}", schema=schema) for one in plain]
    labels = ("cards & cash", "Überträge")
    labeled = [replace(one, request_id=f"label {one.request_id}", labels=labels) for one in plain]
    asked = (*plain, *bound, *labeled)
    found = sample(
        teacher, [one for three in zip(plain, bound, labeled, strict=True) for one in three]
    )
    texts = [
        ScoreRequest(
            one.request_id,
            [*one.prompt_token_ids, *found[one.request_id].token_ids],
            len(one.prompt_token_ids),
        )
        for one in asked
    ]
    for scored in teacher.score(feed(texts), top_logprobs=TOP_LOGPROBS):
        drawn = found[scored.request_id]
        difference = scored.signal.sampled_logprobs_T - drawn.signal.sampled_logprobs_T
        assert np.abs(difference).max() < 1e-3
        assert scored.signal.counts_T.tolist() == drawn.signal.counts_T.tolist()
    finished = [one for name, one in found.items() if "bound" in name]
    finished = [one for one in finished if one.finish_reason == "stop"]
    assert finished
    for one in finished:
        text = teacher.tokenizer.decode(one.token_ids, skip_special_tokens=True)
        assert json.loads(text)["team"] in ("cards", "loans")
    answers = [found[one.request_id].token_ids for one in labeled]
    texts = [teacher.tokenizer.decode(ids, skip_special_tokens=True) for ids in answers]
    assert set(texts) <= set(labels)
    forced = min(one.signal.sampled_logprobs_T.min() for one in finished)
    assert forced < -4, "SmolLM2 would have said something else"
