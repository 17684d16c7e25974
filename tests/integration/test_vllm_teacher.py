"""The real teacher in vLLM: what it samples and scores, and in what form.

In float32, so that what should be equal is so to the rounding of float32.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

from generate.teachers.config import EngineConfig
from generate.teachers.protocol import SampleRequest, ScoreRequest
from generate.teachers.vllm_arrays import (
    prompt_distributions,
    sampled_distributions,
    vllms_own_objects,
)
from generate.teachers.vllm_engine import EngineSpec, VllmTeacher
from potstill.chat import render_prompt
from potstill.schema import Message, SamplingParams

TOP_LOGPROBS = 40
QUESTIONS = (
    "Why is the sky blue?",
    "Name three rivers.",
    "How do I boil an egg?",
    "What is 12 times 12?",
    "Write a line about the sea.",
)


@pytest.fixture(scope="module")
def teacher(teacher_dir) -> Iterator[VllmTeacher]:
    loaded = load(teacher_dir)
    yield loaded
    loaded.close()


def load(teacher_dir, **changes) -> VllmTeacher:
    spec = EngineSpec(
        model=str(teacher_dir),
        dtype="float32",
        max_model_len=512,
        max_logprobs=TOP_LOGPROBS,
        seed=0,
        **changes,
    )
    return VllmTeacher(spec, EngineConfig(max_num_seqs=4, kv_cache_bytes=1 << 28))


def requests(teacher, max_tokens=24) -> list[SampleRequest]:
    return [
        SampleRequest(
            f"request {number}",
            render_prompt(teacher.tokenizer, [Message(role="user", content=question)]),
            SamplingParams(temperature=1.0, top_p=1.0, max_tokens=max_tokens, seed=number),
        )
        for number, question in enumerate(QUESTIONS)
    ]


def feed(items):
    """Hand out requests as they are asked for."""
    waiting = list(items)

    def take(room):
        taken = waiting[:room]
        del waiting[:room]
        return taken

    return take


def sample(teacher, items, top_logprobs=TOP_LOGPROBS):
    found = list(teacher.sample(feed(items), top_logprobs=top_logprobs))
    return {one.request_id: one for one in found}


def assert_equal(one, other):
    """Of equal log-probabilities either may stand first, and at the end either may be left out."""
    assert np.array_equal(one.counts_T, other.counts_T)
    assert np.array_equal(one.sampled_logprobs_T, other.sampled_logprobs_T)
    assert np.array_equal(one.top_logprobs_N, other.top_logprobs_N)
    differ_N = one.top_token_ids_N != other.top_token_ids_N
    is_tie_N = one.top_logprobs_N == np.roll(one.top_logprobs_N, 1)
    is_tie_N |= one.top_logprobs_N == np.roll(one.top_logprobs_N, -1)
    is_tie_N[TOP_LOGPROBS - 1 :: TOP_LOGPROBS] = True
    assert not (differ_N & ~is_tie_N).any()


def vllm_outputs(teacher, prompts, params):
    teacher._llm.reset_prefix_cache()
    prompts = [{"prompt_token_ids": list(ids)} for ids in prompts]
    with vllms_own_objects():
        return teacher._llm.generate(prompts, params, use_tqdm=False)


def test_arrays_are_vllms_own_flat_log_probabilities(teacher, draw_as_vllm):
    """With vLLM's own draws in both, so that the same tokens are looked at."""
    from vllm import SamplingParams as VllmParams

    asked = requests(teacher)[:4]
    params = [
        VllmParams(
            temperature=1.0,
            max_tokens=24,
            seed=one.sampling.seed,
            logprobs=TOP_LOGPROBS,
            flat_logprobs=True,
            detokenize=False,
            stop_token_ids=sorted(teacher.end_token_ids),
        )
        for one in asked
    ]
    flat = vllm_outputs(teacher, [one.prompt_token_ids for one in asked], params)
    teacher._llm.reset_prefix_cache()
    draw_as_vllm()
    found = sample(teacher, asked)
    for one, output in zip(asked, flat, strict=True):
        assert found[one.request_id].token_ids == tuple(output.outputs[0].token_ids)
        reference = sampled_distributions(output.outputs[0].logprobs, TOP_LOGPROBS)
        assert_equal(found[one.request_id].signal, reference)


def test_scored_arrays_are_vllms_own_flat_log_probabilities(teacher):
    from vllm import SamplingParams as VllmParams

    text = (
        list(requests(teacher)[0].prompt_token_ids) + teacher.tokenizer(" Because of")["input_ids"]
    )
    params = VllmParams(
        temperature=0.0,
        max_tokens=1,
        prompt_logprobs=TOP_LOGPROBS,
        flat_logprobs=True,
        detokenize=False,
    )
    (output,) = vllm_outputs(teacher, [text], params)
    request = ScoreRequest("scored", text, 7)
    (scored,) = teacher.score(feed([request]), top_logprobs=TOP_LOGPROBS)
    reference = prompt_distributions(output.prompt_logprobs, 7, TOP_LOGPROBS)
    assert scored.token_ids == tuple(text[7:])
    assert_equal(scored.signal, reference)


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


def test_a_lora_adapter_changes_what_the_teacher_says(teacher, teacher_dir, tmp_path):
    """The last one here: when the second vLLM of a process ends, the first is of no more use."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(teacher_dir, dtype=torch.float32)
    torch.manual_seed(0)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    model.save_pretrained(tmp_path / "adapter")
    request = requests(teacher, max_tokens=1)[0]
    without = sample(teacher, [request])[request.request_id].signal
    adapted = load(teacher_dir, lora_path=tmp_path / "adapter")
    try:
        with_adapter = sample(adapted, [request])[request.request_id].signal
    finally:
        adapted.close()
    ids = torch.tensor([list(request.prompt_token_ids)])
    with torch.no_grad():
        wanted = model(ids).logits[0, -1].log_softmax(-1).numpy()
    found = wanted[with_adapter.top_token_ids_N]
    np.testing.assert_allclose(with_adapter.top_logprobs_N, found, atol=1e-3)
    assert np.abs(without.top_logprobs_N - wanted[without.top_token_ids_N]).max() > 0.1
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 4
