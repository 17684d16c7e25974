"""Teachers behind real servers: vLLM's own, potstill's, and vLLM's as an upstream of potstill's."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from openai import OpenAI

from benchmarks.generate._workload import vllms_own_sampler
from generate.teachers.endpoint.config import EndpointConfig
from generate.teachers.endpoint.teacher import EndpointTeacher, connect
from generate.teachers.protocol import Sample, SampleRequest, ScoreRequest
from potstill.chat import render_prompt, tokenize
from potstill.distributions import TokenDistributions
from potstill.errors import TeacherError
from potstill.schema import Message, SamplingParams
from tests.fixtures.feeding import taking
from tests.fixtures.served import Server, run_of_gguf
from tests.fixtures.tiny_gguf import smollm2_path
from train.config import ServedTeacherConfig
from train.on_policy.served_teacher import ServedTeacher

from .conftest import CONTEXT_TOKENS, TOP_LOGPROBS

OUR_TOP_LOGPROBS = 20
"""OpenAI's limit, and our server's."""
MAX_TOKENS = 24
SAME_NATS = 1e-3
"""Bound of differences in float32; the two were equal to the last bit when it was set."""
NEAR_NATS = 0.15
"""Bound of the mean difference between float32 and llama.cpp's arithmetic with weights of four bits
and activations of eight; 0.04 for sampled tokens and 0.09 for all entries when it was set."""
QUESTIONS = ("What is 2+2?", "Name three colors.", "Write a line about the sea.", "Who are you?")
AGAIN = "And now in other words?"


@pytest.fixture(scope="module")
def served_by_vllm(vllm_url, teacher_dir) -> Iterator[EndpointTeacher]:
    yield from connected(vllm_url, "teacher", teacher_dir)


@pytest.fixture(scope="module")
def before_vllm(vllm_url, tmp_path_factory) -> Iterator[Server]:
    """Our server: vLLM's model is its `teacher`, a file its `student`, both are `assistant`."""
    directory = tmp_path_factory.mktemp("before")
    variants = {"student": {"weight": 1}, "teacher": {"weight": 1}}
    server = Server(
        run_of_gguf(directory / "run", smollm2_path()),
        directory / "log",
        key=None,
        context_tokens=CONTEXT_TOKENS,
        max_parallel=4,
        upstreams={"teacher": {"base_url": vllm_url}},
        experiments={"assistant": {"variants": variants, "salt": "salt"}},
    )
    yield server
    server.stop()


@pytest.fixture(scope="module")
def served_by_us(before_vllm, teacher_dir) -> Iterator[EndpointTeacher]:
    yield from connected(before_vllm.url, "student", teacher_dir)


def connected(base_url: str, model: str, teacher_dir: Path) -> Iterator[EndpointTeacher]:
    config = EndpointConfig(base_url=base_url, model=model, max_concurrency=4)
    teacher = connect(config, teacher_dir)
    yield teacher
    teacher.close()


def first_turns(tokenizer) -> dict[str, SampleRequest]:
    """Return the questions as requests: the first greedy, the second sharpened, others plain."""
    temperatures = [0.0, 0.6, 1.0, 1.0]
    requests = {}
    for seed, (question, temperature) in enumerate(zip(QUESTIONS, temperatures, strict=True)):
        messages = (Message(role="user", content=question),)
        sampling = SamplingParams(
            temperature=temperature, top_p=1.0, max_tokens=MAX_TOKENS, seed=seed
        )
        prompt = tuple(render_prompt(tokenizer, messages))
        requests[question] = SampleRequest(question, prompt, sampling, messages)
    return requests


def follow_up(tokenizer, request: SampleRequest, sample: Sample) -> SampleRequest:
    """Return the request after an answer that has ended: its tokens, then the template's."""
    said = tokenizer.decode(sample.token_ids, skip_special_tokens=True)
    messages = (
        *request.messages,
        Message(role="assistant", content=said),
        Message(role="user", content=AGAIN),
    )
    joint = f"\n<|im_start|>user\n{AGAIN}<|im_end|>\n<|im_start|>assistant\n"
    token_ids = [*request.prompt_token_ids, *sample.token_ids, *tokenize(tokenizer, joint)]
    assert token_ids == render_prompt(tokenizer, messages)
    return SampleRequest("follow-up", tuple(token_ids), request.sampling, messages)


def converse(teacher, top_logprobs: int) -> tuple[dict[str, SampleRequest], dict[str, Sample]]:
    """Ask all questions, and one further turn of the first conversation as soon as it has ended."""
    asked = first_turns(teacher.tokenizer)
    requests, samples = list(asked.values()), {}
    for sample in teacher.sample(taking(requests), top_logprobs=top_logprobs):
        assert isinstance(sample, Sample), sample
        samples[sample.request_id] = sample
        if sample.request_id == QUESTIONS[0]:
            asked["follow-up"] = follow_up(teacher.tokenizer, asked[QUESTIONS[0]], sample)
            requests.append(asked["follow-up"])
    assert samples.keys() == asked.keys()
    for sample in samples.values():
        ended = sample.token_ids[-1] in teacher.end_token_ids
        assert sample.finish_reason == ("stop" if ended else "length")
        assert ended or len(sample.token_ids) == MAX_TOKENS
        assert sample.signal.counts_T.tolist() == [top_logprobs] * len(sample.token_ids)
    assert samples[QUESTIONS[0]].finish_reason == "stop"
    return asked, samples


def score(teacher, asked, samples, top_logprobs: int) -> dict[str, Sample]:
    texts = [
        ScoreRequest(
            name,
            [*request.prompt_token_ids, *samples[name].token_ids],
            len(request.prompt_token_ids),
        )
        for name, request in asked.items()
    ]
    scores = {
        one.request_id: one for one in teacher.score(taking(texts), top_logprobs=top_logprobs)
    }
    assert {name: one.token_ids for name, one in scores.items()} == {
        name: one.token_ids for name, one in samples.items()
    }
    return scores


def assert_same(one: Sample, other: Sample) -> None:
    """Check that two samples hold the same distributions; entries all but equal may swap."""
    assert one.token_ids == other.token_ids
    for name in ("sampled_logprobs_T", "top_logprobs_N"):
        found, expected = getattr(one.signal, name), getattr(other.signal, name)
        np.testing.assert_allclose(found, expected, atol=SAME_NATS)
    assert np.mean(one.signal.top_token_ids_N == other.signal.top_token_ids_N) > 0.98


def test_vllm_gives_the_same_served_and_in_process(served_by_vllm, teacher, vllm_url):
    assert served_by_vllm.facts() == teacher.facts() | {"served_as": "teacher"}
    assert served_by_vllm.end_token_ids == teacher.end_token_ids
    asked, served = converse(served_by_vllm, TOP_LOGPROBS)
    with vllms_own_sampler(teacher):
        _, drawn = converse(teacher, TOP_LOGPROBS)
    scored_there = score(served_by_vllm, asked, served, TOP_LOGPROBS)
    scored_here = score(teacher, asked, served, TOP_LOGPROBS)
    for name in asked:
        assert_same(served[name], drawn[name])
        assert_same(served[name], scored_here[name])
        assert_same(scored_there[name], scored_here[name])
    assert_corrects(vllm_url, asked, scored_here)


def assert_corrects(vllm_url: str, asked, scored: dict[str, Sample]) -> None:
    """Check that the on-policy phase gets the same from the server."""
    config = ServedTeacherConfig(base_url=vllm_url, model="teacher", top_logprobs=TOP_LOGPROBS)
    answers = [
        ([*request.prompt_token_ids, *scored[name].token_ids], len(request.prompt_token_ids))
        for name, request in asked.items()
    ]
    targets = ServedTeacher(config).targets(answers, num_rows=49_152)
    expected = TokenDistributions.concatenate([scored[name].signal for name in asked])
    token_ids_TK, logprobs_TK = expected.padded()
    np.testing.assert_allclose(targets.top_logprobs_TK, logprobs_TK, atol=SAME_NATS)
    assert np.mean(targets.top_token_ids_TK.numpy() == token_ids_TK) > 0.98
    sampled_T = targets.sampled_logprobs_T
    np.testing.assert_allclose(sampled_T, expected.sampled_logprobs_T, atol=SAME_NATS)


def test_vllm_refuses_more_log_probabilities_than_it_was_started_for(served_by_vllm):
    with pytest.raises(TeacherError, match="--max-logprobs 41 or more"):
        served_by_vllm.sample(taking([]), top_logprobs=TOP_LOGPROBS + 1)


def test_our_server_teaches_token_by_token(served_by_us, teacher):
    assert served_by_us.facts() == {"served_as": "student", "logprobs_mode": "raw_logprobs"}
    asked, served = converse(served_by_us, OUR_TOP_LOGPROBS)
    scored = score(teacher, asked, served, OUR_TOP_LOGPROBS)
    for name in asked:
        one, other = served[name].signal, scored[name].signal
        off_T = np.abs(one.sampled_logprobs_T - other.sampled_logprobs_T)
        off_N = np.abs(one.top_logprobs_N - other.top_logprobs_N)
        assert max(off_T.mean(), off_N.mean()) < NEAR_NATS
        assert max(off_T.max(), off_N.max()) < 10 * NEAR_NATS


def test_our_server_cannot_score(served_by_us):
    with pytest.raises(TeacherError, match="cannot score text"):
        served_by_us.score(taking([]), top_logprobs=OUR_TOP_LOGPROBS)


HELLO = {"model": "teacher", "messages": [{"role": "user", "content": QUESTIONS[1]}]}
GREEDY = HELLO | {"temperature": 0, "max_tokens": MAX_TOKENS}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 10}},
    "required": ["city"],
    "additionalProperties": False,
}


def test_vllm_answers_through_our_server_as_it_answers_alone(vllm_url, before_vllm):
    alone = OpenAI(base_url=vllm_url, api_key="none").chat.completions.create(**GREEDY)
    create = before_vllm.client.chat.completions.create
    whole = create(**GREEDY, logprobs=True, top_logprobs=3)
    assert whole.choices[0].message.content == alone.choices[0].message.content
    assert [len(one.top_logprobs) for one in whole.choices[0].logprobs.content] == (
        [3] * whole.usage.completion_tokens
    )
    *chunks, last = create(**GREEDY, stream=True, stream_options={"include_usage": True})
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert (text, last.usage) == (alone.choices[0].message.content, alone.usage)


def test_vllm_is_bound_by_schemas_through_our_server(before_vllm):
    create = before_vllm.client.chat.completions.create
    settings = GREEDY | {"max_tokens": 200}
    named = {"name": "city", "schema": SCHEMA, "strict": True}
    answer = create(**settings, response_format={"type": "json_schema", "json_schema": named})
    assert list(json.loads(answer.choices[0].message.content)) == ["city"]
    # vLLM does not constrain other arguments.
    function = {"name": "look_up", "parameters": SCHEMA, "strict": True}
    answer = create(
        **settings,
        tools=[{"type": "function", "function": function}],
        tool_choice={"type": "function", "function": {"name": "look_up"}},
    )
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "look_up"
    assert list(json.loads(call.function.arguments)) == ["city"]


def test_vllm_stops_when_a_client_of_our_server_disconnects(vllm_url, before_vllm):
    def num_running() -> float:
        with urllib.request.urlopen(vllm_url.replace("/v1", "/metrics")) as metrics:
            lines = metrics.read().decode().splitlines()
        return sum(
            float(line.split()[-1])
            for line in lines
            if line.startswith("vllm:num_requests_running")
        )

    endless = HELLO | {"max_tokens": 400, "stream": True, "extra_body": {"ignore_eos": True}}
    stream = before_vllm.client.chat.completions.create(**endless)
    next(iter(stream))
    assert num_running() == 1
    stream.close()
    deadline = time.monotonic() + 10
    while num_running() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert num_running() == 0


def test_an_experiment_pairs_a_file_with_vllm(before_vllm):
    create = before_vllm.client.chat.completions.with_raw_response.create
    asked = GREEDY | {"model": "assistant"}
    variants = [
        create(**asked, user=f"user-{number}").headers["x-potstill-variant"] for number in range(8)
    ]
    assert set(variants) == {"student", "teacher"}
    # The student's own conversations are those that are judged.
    num_pairs = variants.count("student")
    pairs_url = f"{before_vllm.url}/experiments/assistant/pairs?judge=nobody"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with urllib.request.urlopen(pairs_url) as answer:
            pairs = json.load(answer)["data"]
        if len(pairs) == num_pairs:
            break
        time.sleep(0.2)
    assert len(pairs) == num_pairs
