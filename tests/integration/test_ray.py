"""A real local Ray with a teacher in two of its workers, one of which is killed."""

import psutil
import pytest

from generate.teachers.config import EngineConfig, RayConfig
from generate.teachers.protocol import Sample, SampleRequest, ScoreRequest
from generate.teachers.ray_cluster import RayTeacher
from generate.teachers.vllm_engine import LOGPROBS_MODE, EngineSpec, VllmTeacher
from potstill.chat import render_prompt
from potstill.schema import Message, SamplingParams
from tests.fixtures.feeding import taking
from tests.fixtures.table_teacher import TableTeacher

TOP_LOGPROBS, FEW_TOKENS, MANY_TOKENS = 20, 8, 48
QUESTIONS = [
    "What is a cat?",
    "Name three colors.",
    "Say hello.",
    "Who wrote Hamlet?",
    "How deep is the sea?",
    "What is 2 + 2?",
    "Why is the sky blue?",
    "Where is Peru?",
]
STORY = "Write a long story about a lighthouse."
ENGINE = EngineConfig(max_num_seqs=4, kv_cache_bytes=256 << 20)
MOST_HELD_BY_ONE = 2 * ENGINE.max_num_seqs
NEAR_NATS = 1e-3
"""Sampling and scoring add up in another order. In bfloat16 they were 0.18 nats apart."""


@pytest.fixture(scope="module", autouse=True)
def processes_of_others() -> set[psutil.Process]:
    """Return the processes of fixtures that outlive this module, such as vLLM's.

    Used by itself, so that it comes before the teacher.
    """
    return set(psutil.Process().children(recursive=True))


@pytest.fixture(
    scope="module",
    params=[TableTeacher, pytest.param(VllmTeacher, marks=pytest.mark.nightly)],
)
def teacher(teacher_dir, request):
    """Two copies, each on half of this machine's cores, in a Ray of their own."""
    spec = EngineSpec(
        model=str(teacher_dir),
        dtype="float32",
        max_model_len=256,
        max_logprobs=TOP_LOGPROBS,
        seed=0,
    )
    cluster = RayConfig(address="local", num_replicas=2)
    teacher = RayTeacher(spec, ENGINE, cluster, load_teacher=request.param)
    yield teacher
    teacher.close()


def ask(teacher: RayTeacher, name: str, text: str, max_tokens: int) -> SampleRequest:
    sampling = SamplingParams(temperature=1.0, top_p=1.0, max_tokens=max_tokens, seed=len(name))
    prompt_ids = render_prompt(teacher.tokenizer, [Message(role="user", content=text)])
    return SampleRequest(name, prompt_ids, sampling)


def await_both_copies(teacher: RayTeacher) -> None:
    """Sample until more is wanted than one copy takes."""

    def one_more(room: int) -> list[SampleRequest]:
        number = next(numbers)
        enough = room > MOST_HELD_BY_ONE
        return [] if enough else [ask(teacher, f"warm-up {number}", "Hi", FEW_TOKENS)]

    numbers = iter(range(10_000))
    for _ in teacher.sample(one_more, top_logprobs=None):
        pass


def workers() -> list[psutil.Process]:
    """Return the processes with a replica of the teacher."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if child.cmdline()[:1] and "Replica" in child.cmdline()[0]]


def test_what_is_true_of_the_copies_is_known_before_they_are_asked(teacher):
    assert teacher.end_token_ids == {teacher.tokenizer.eos_token_id}
    assert teacher.facts()["logprobs_mode"] == LOGPROBS_MODE


def test_two_copies_sample_as_they_finish_follow_up_and_score(teacher):
    await_both_copies(teacher)
    asked = {text: ask(teacher, text, text, FEW_TOKENS) for text in QUESTIONS[1:]}
    asked = {STORY: ask(teacher, STORY, STORY, MANY_TOKENS)} | asked
    requests = list(asked.values())
    samples: dict[str, Sample] = {}
    for sample in teacher.sample(taking(requests), top_logprobs=TOP_LOGPROBS):
        assert sample.request_id not in samples
        samples[sample.request_id] = sample
        if len(samples) == 1:
            # A second turn, known only now.
            before = asked[sample.request_id]
            ids = [*before.prompt_token_ids, *sample.token_ids]
            asked["again"] = SampleRequest("again", ids, before.sampling)
            requests.append(asked["again"])
    assert samples.keys() == asked.keys()
    assert list(samples)[-1] == STORY, "the one asked first is the longest, and holds nobody back"
    for name, sample in samples.items():
        check_sample(sample, asked[name].sampling.max_tokens, teacher.end_token_ids)
    texts = [
        ScoreRequest(
            name,
            [*asked[name].prompt_token_ids, *sample.token_ids],
            len(asked[name].prompt_token_ids),
        )
        for name, sample in samples.items()
    ]
    scores = list(teacher.score(taking(texts), top_logprobs=TOP_LOGPROBS))
    assert sorted(score.request_id for score in scores) == sorted(samples)
    for score in scores:
        drawn = samples[score.request_id]
        assert score.token_ids == drawn.token_ids
        assert score.signal.sampled_logprobs_T == pytest.approx(
            drawn.signal.sampled_logprobs_T, abs=NEAR_NATS
        )


def check_sample(sample: Sample, max_tokens: int, end_token_ids: frozenset[int]) -> None:
    ended = sample.token_ids[-1] in end_token_ids
    assert sample.finish_reason == ("stop" if ended else "length")
    num_tokens = len(sample.token_ids)
    assert ended or num_tokens == max_tokens
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


def test_what_a_killed_copy_held_is_answered_by_the_other(teacher, caplog):
    await_both_copies(teacher)
    requests = [ask(teacher, "short", "Hi", 1)]
    requests += [ask(teacher, text, f"{STORY} {text}", MANY_TOKENS) for text in QUESTIONS[1:]]
    expected = sorted(request.request_id for request in requests)
    results = []
    for result in teacher.sample(taking(requests), top_logprobs=TOP_LOGPROBS):
        results.append(result)
        if len(results) == 1:
            # Both copies are busy: seven long answers are due, and each was given four requests.
            assert result.request_id == "short"
            victim, _ = workers()
            victim.kill()
    assert sorted(result.request_id for result in results) == expected
    assert all(isinstance(result, Sample) for result in results)
    assert "a replica of the teacher was lost" in caplog.text


def test_closing_ends_ray_and_all_its_processes(teacher, processes_of_others):
    import ray

    processes = set(psutil.Process().children(recursive=True)) - processes_of_others
    assert workers()
    teacher.close()
    assert not ray.is_initialized()
    assert psutil.wait_procs(processes, timeout=20)[1] == []
