"""A real local Ray: the real SmolLM2 in two of its workers, and a worker that is killed."""

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from generate.teachers.engine_config import EngineConfig
from generate.teachers.protocol import Sample, SampleRequest, ScoreRequest
from generate.teachers.ray_cluster import RayTeacher
from generate.teachers.ray_config import RayConfig
from generate.teachers.vllm_engine import EngineSpec
from potstill.chat import render_prompt
from potstill.schema import Message, SamplingParams

TOP_LOGPROBS, MAX_TOKENS = 20, 8
QUESTIONS = ["What is a cat?", "Name three colours.", "Say hello.", "Who wrote Hamlet?"]
ENGINE = EngineConfig(max_num_seqs=4, kv_cache_bytes=256 << 20)
NEAR_NATS = 0.05
"""Sampling and scoring batch differently, and bfloat16 rounds by it."""


def spec_of(teacher_dir: Path) -> EngineSpec:
    return EngineSpec(
        model=str(teacher_dir), dtype="bfloat16", max_model_len=256, max_logprobs=20, seed=0
    )


def taking(requests: list):
    def next_requests(room: int) -> list:
        taken, requests[:] = requests[:room], requests[room:]
        return taken

    return next_requests


def assert_closing_ends_processes(teacher: RayTeacher) -> None:
    processes = psutil.Process().children(recursive=True)
    teacher.close()
    assert psutil.wait_procs(processes, timeout=20)[1] == []


@pytest.fixture
def local_ray():
    """A Ray of two cores on this machine."""
    import ray

    # Workers cannot import a test's module, so what they need of it travels by value.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_two_copies_sample_score_and_follow_up(teacher_dir):
    teacher = RayTeacher(spec_of(teacher_dir), ENGINE, RayConfig(address="local", num_replicas=2))
    try:
        prompts = {
            question: render_prompt(teacher.tokenizer, [Message(role="user", content=question)])
            for question in QUESTIONS
        }
        requests = [
            SampleRequest(
                question,
                prompt_ids,
                SamplingParams(temperature=1.0, top_p=1.0, max_tokens=MAX_TOKENS, seed=seed),
            )
            for seed, (question, prompt_ids) in enumerate(prompts.items())
        ]
        first = requests[0]
        samples = {}
        for sample in teacher.sample(taking(requests), top_logprobs=TOP_LOGPROBS):
            samples[sample.request_id] = sample
            if sample.request_id == first.request_id:
                # A second turn, known only now.
                ids = [*first.prompt_token_ids, *sample.token_ids]
                requests.append(SampleRequest("again", ids, first.sampling))
        texts = [
            ScoreRequest(name, [*prompts[name], *samples[name].token_ids], len(prompts[name]))
            for name in QUESTIONS
        ]
        scores = list(teacher.score(taking(texts), top_logprobs=TOP_LOGPROBS))
    finally:
        assert_closing_ends_processes(teacher)
    assert samples.keys() == {*QUESTIONS, "again"}
    for sample in samples.values():
        check_sample(sample, teacher.end_token_ids)
    assert len(scores) == len(QUESTIONS)
    for score in scores:
        drawn = samples[score.request_id]
        assert score.token_ids == drawn.token_ids
        assert score.signal.sampled_logprobs_T == pytest.approx(
            drawn.signal.sampled_logprobs_T, abs=NEAR_NATS
        )


def check_sample(sample: Sample, end_token_ids: frozenset[int]) -> None:
    assert isinstance(sample, Sample)
    ended = sample.token_ids[-1] in end_token_ids
    assert sample.finish_reason == ("stop" if ended else "length")
    assert ended or len(sample.token_ids) == MAX_TOKENS
    num_tokens = len(sample.token_ids)
    signal = sample.signal
    assert signal.sampled_logprobs_T.shape == (num_tokens,)
    assert signal.counts_T.tolist() == [TOP_LOGPROBS] * num_tokens
    top_ids = signal.top_token_ids_N.reshape(num_tokens, TOP_LOGPROBS)
    top_logprobs = signal.top_logprobs_N.reshape(num_tokens, TOP_LOGPROBS)
    assert (top_logprobs[:, 1:] <= top_logprobs[:, :-1]).all()
    for token_id, logprob, ids, logprobs in zip(
        sample.token_ids, signal.sampled_logprobs_T, top_ids, top_logprobs, strict=True
    ):
        if token_id in ids:
            assert logprobs[ids.tolist().index(token_id)] == pytest.approx(logprob, abs=1e-6)


class SlowTeacher:
    """Answers with the process it runs in."""

    end_token_ids = frozenset({2})

    def sample(self, next_requests, **_):
        held = []
        while held or (held := list(next_requests(4))):
            time.sleep(0.02)
            yield Sample(held.pop(0).request_id, (os.getpid(),), None, "stop")

    def close(self) -> None:
        pass


def test_requests_of_a_killed_worker_are_answered_by_others(local_ray, teacher_dir):
    assert local_ray.is_initialized()
    teacher = RayTeacher(
        spec_of(teacher_dir),
        ENGINE,
        RayConfig(num_replicas=2),
        load_teacher=lambda _spec, _engine: SlowTeacher(),
    )
    sampling = SamplingParams(temperature=1.0, top_p=1.0, max_tokens=8, seed=0)
    requests = [SampleRequest(f"r{index}", (1,), sampling) for index in range(60)]
    expected = sorted(request.request_id for request in requests)
    killed, names, pids = None, [], set()
    for sample in teacher.sample(taking(requests), top_logprobs=None):
        names.append(sample.request_id)
        pids.add(sample.token_ids[0])
        if killed is None and len(pids) == 2:
            killed = sample.token_ids[0]
            os.kill(killed, signal.SIGKILL)
    assert sorted(names) == expected
    assert len(pids) == 3
    teacher.close()
    assert local_ray.is_initialized()
