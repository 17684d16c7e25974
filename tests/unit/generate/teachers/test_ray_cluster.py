"""The front end over a stand-in for Ray whose actors are threads of this process."""

import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for_futures
from functools import partial
from itertools import count
from types import SimpleNamespace

import pytest

from generate.teachers import ray_cluster, ray_replica
from generate.teachers.config import EngineConfig, RayConfig
from generate.teachers.protocol import Failure, Sample, SampleRequest
from generate.teachers.ray_cluster import MAX_LOSSES, RayTeacher
from generate.teachers.vllm_engine import EngineSpec
from potstill.errors import TeacherError
from potstill.schema import SamplingParams

SPEC = EngineSpec(model="a/model", dtype="auto", max_model_len=64, max_logprobs=20, seed=0)
ENGINE = EngineConfig(max_num_seqs=2)
FACTS = {"logprobs_mode": "raw_logprobs"}
SAMPLING = SamplingParams(temperature=1.0, top_p=1.0, max_tokens=8, seed=0)
NUMBERS = count()


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        self.cause = cause


class LostError(RayError):
    """The process that held an actor is gone."""


class FakeMethod:
    def __init__(self, actor, name: str, group: str | None = None) -> None:
        self.actor, self.name, self.group = actor, name, group

    def options(self, *, concurrency_group: str):
        return FakeMethod(self.actor, self.name, concurrency_group)

    def remote(self, *args) -> Future:
        return self.actor.threads[self.group].submit(self.call, *args)

    def call(self, *args):
        if self.actor.killed:
            raise LostError
        try:
            return getattr(self.actor.instance, self.name)(*args)
        except TeacherError as error:
            raise RayTaskError(error) from error


class FakeActor:
    """An object with one thread for each concurrency group, as Ray has it."""

    def __init__(self, instance) -> None:
        self.instance, self.killed = instance, False
        self.threads = defaultdict(partial(ThreadPoolExecutor, max_workers=1))

    def __getattr__(self, name: str):
        return FakeMethod(self, name)

    def kill(self) -> None:
        self.killed = True
        # Its threads end when they see a later run.
        self.instance.feed(sys.maxsize, [])


class FakeRay:
    """What the front end uses of Ray: a head without cores, and two machines of four."""

    exceptions = SimpleNamespace(RayTaskError=RayTaskError, RayError=RayError)

    def __init__(self) -> None:
        self.machines = [{}, {"CPU": 4.0}, {"CPU": 4.0}]
        self.actors, self.options, self.running = [], {}, False

    def init(self, *_args, **_kwargs):
        self.running = True

    def is_initialized(self):
        return self.running

    def shutdown(self):
        self.running = False

    def available_resources(self):
        return {"CPU": 8.0}

    def nodes(self):
        lost = {"Alive": False, "Resources": {}}
        return [lost, *({"Alive": True, "Resources": machine} for machine in self.machines)]

    def remote(self, **options):
        self.options = options

        def make(cls):
            def start(*args):
                self.actors.append(FakeActor(cls(*args)))
                return self.actors[-1]

            return SimpleNamespace(remote=start)

        return make

    def wait(self, calls, **_):
        done = wait_for_futures(calls, return_when=FIRST_COMPLETED).done
        return [call for call in calls if call in done][:1], []

    def get(self, call):
        return call.result()

    def kill(self, actor):
        actor.kill()


class EchoTeacher:
    """Answers with the prompt; `fate` is called before each answer and may raise."""

    end_token_ids = frozenset({2})

    def __init__(self, fate, facts) -> None:
        self.fate, self._facts = fate, facts

    def facts(self):
        return self._facts

    def sample(self, next_requests, **_) -> Iterator[Sample]:
        held = []
        while held or (held := list(next_requests(4))):
            request = held.pop(0)
            self.fate(request.request_id)
            yield Sample(request.request_id, tuple(request.prompt_token_ids), None, "stop")

    def close(self):
        pass


@pytest.fixture
def ray(monkeypatch) -> Iterator[FakeRay]:
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(ray_cluster, "_load_tokenizer", lambda _: None)
    monkeypatch.setattr(ray_replica, "GATHER_SECONDS", 0.0)
    yield ray
    for actor in ray.actors:
        actor.kill()


def cluster_of(fate=lambda _: None, load=lambda: FACTS, engine=ENGINE, **config) -> RayTeacher:
    def load_teacher(_spec, _engine):
        return EchoTeacher(fate, load())

    return RayTeacher(SPEC, engine, RayConfig(**config), load_teacher=load_teacher)


def source(number: int):
    todo = [SampleRequest(f"r{index}", (index,), SAMPLING) for index in range(number)]

    def next_requests(room: int):
        taken, todo[:] = todo[:room], todo[room:]
        return taken

    return next_requests


def endless(room: int):
    """Requests until the run ends, so that it outlasts the loading of every copy."""
    return [SampleRequest(f"r{next(NUMBERS)}", (0,), SAMPLING) for _ in range(room)]


def test_all_copies_work_and_each_request_is_answered_once(ray):
    meeting, met = threading.Barrier(2, timeout=10), set()

    def fate(_request_id: str) -> None:
        if threading.get_ident() not in met:
            met.add(threading.get_ident())
            meeting.wait()

    teacher = cluster_of(fate)
    results = list(teacher.sample(source(30), top_logprobs=20))
    assert sorted(result.request_id for result in results) == sorted(f"r{n}" for n in range(30))
    assert all(result.token_ids == (int(result.request_id[1:]),) for result in results)
    assert len(ray.actors) == len(met) == 2  # one on each machine that has cores
    assert teacher.max_num_seqs == 4


@pytest.mark.usefixtures("ray")
def test_what_the_copies_say_of_themselves_is_known_before_the_first_request():
    teacher = cluster_of()
    assert teacher.end_token_ids == {2}
    assert teacher.facts() == FACTS


@pytest.mark.usefixtures("ray")
def test_a_follow_up_may_come_after_the_queue_was_empty():
    first, follow_up = source(1), source(0)
    queue = [first]

    def next_requests(room: int):
        return queue[0](room)

    names = []
    for result in cluster_of().sample(next_requests, top_logprobs=None):
        names.append(result.request_id)
        if len(names) < 3:
            queue[0] = source(1)
        else:
            queue[0] = follow_up
    assert names == ["r0", "r0", "r0"]


def test_what_a_lost_copy_held_is_answered_by_another(ray):
    deaths = []

    def fate(request_id: str) -> None:
        if request_id == "r7" and not deaths:
            deaths.append(request_id)
            raise LostError

    results = list(cluster_of(fate).sample(source(30), top_logprobs=20))
    assert sorted(result.request_id for result in results) == sorted(f"r{n}" for n in range(30))
    assert len(ray.actors) == 3
    assert [actor.killed for actor in ray.actors].count(True) == 1


def test_an_engine_that_fails_is_replaced_too(ray):
    deaths = []

    def fate(request_id: str) -> None:
        if request_id == "r0" and not deaths:
            deaths.append(request_id)
            raise TeacherError("vLLM failed while sampling")

    results = list(cluster_of(fate, num_replicas=1).sample(source(5), top_logprobs=20))
    assert len(results) == 5
    assert len(ray.actors) == 2


@pytest.mark.usefixtures("ray")
def test_a_request_that_ends_every_copy_is_given_up():
    def fate(request_id: str) -> None:
        if request_id == "r0":
            raise LostError

    results = list(cluster_of(fate, num_replicas=6).sample(source(6), top_logprobs=20))
    failures = [result for result in results if isinstance(result, Failure)]
    assert [failure.request_id for failure in failures] == ["r0"]
    assert str(MAX_LOSSES) in failures[0].reason
    assert len(results) == 6


def test_losing_every_copy_is_an_error(ray):
    def fate(_request_id: str) -> None:
        raise TeacherError("the engine is broken")

    teacher = cluster_of(fate, num_replicas=2)
    with pytest.raises(TeacherError, match="the engine is broken"):
        list(teacher.sample(source(20), top_logprobs=20))
    assert len(ray.actors) == 2 * MAX_LOSSES
    teacher.close()


def test_a_checkpoint_that_does_not_load_is_tried_once_and_ends_ray(ray):
    def load() -> None:
        raise TeacherError("vLLM cannot load the teacher")

    with pytest.raises(TeacherError, match="cannot load"):
        cluster_of(load=load)
    assert len(ray.actors) == 2
    assert not ray.running


def test_no_room_on_the_cluster_is_an_error_that_says_what_is_free(ray, monkeypatch):
    monkeypatch.setattr(ray, "wait", lambda calls, **_: ([], calls))
    with pytest.raises(TeacherError, match=r"no replica.*\n.*\n.*'CPU': 8.0"):
        cluster_of()


@pytest.mark.usefixtures("ray")
def test_another_vllm_on_a_machine_is_refused(monkeypatch):
    versions = iter(["vllm 0.32.0", "vllm 9.9"])
    monkeypatch.setattr(ray_replica, "engine_version", lambda: next(versions))
    teacher = cluster_of()
    with pytest.raises(TeacherError, match="different teachers") as caught:
        list(teacher.sample(endless, top_logprobs=20))
    # Copies load side by side: either may be the first.
    differ = {caught.value.expected.engine, caught.value.found.engine}
    assert differ == {"vllm 0.32.0", "vllm 9.9"}


@pytest.mark.usefixtures("ray")
def test_copies_that_differ_in_a_fact_are_refused():
    facts = iter([FACTS, {"logprobs_mode": "processed_logprobs"}])
    teacher = cluster_of(load=lambda: next(facts))
    with pytest.raises(TeacherError, match="processed_logprobs"):
        list(teacher.sample(endless, top_logprobs=20))


@pytest.mark.usefixtures("ray")
def test_another_checkpoint_on_a_machine_is_refused(monkeypatch):
    fingerprints = iter(["aaaa", "bbbb"])
    monkeypatch.setattr(ray_replica, "checkpoint_fingerprint", lambda _: next(fingerprints))
    teacher = cluster_of()
    with pytest.raises(TeacherError, match="different teachers") as caught:
        list(teacher.sample(endless, top_logprobs=20))
    differ = {caught.value.expected.fingerprints, caught.value.found.fingerprints}
    assert differ == {("aaaa",), ("bbbb",)}


@pytest.mark.usefixtures("ray")
def test_a_run_that_is_left_does_not_leak_into_the_next():
    teacher = cluster_of(num_replicas=1)
    left = teacher.sample(source(9), top_logprobs=20)
    next(left)
    left.close()
    others = [SampleRequest("other", (1,), SAMPLING)]
    results = list(teacher.sample(lambda _room: [others.pop()] if others else [], top_logprobs=5))
    assert [result.request_id for result in results] == ["other"]


@pytest.mark.parametrize(
    ("config", "num_copies", "num_cpus"),
    [
        ({}, 2, 4),
        ({"num_replicas": 1}, 1, 4),
        ({"num_replicas": 3}, 3, 2),
        ({"num_replicas": 99}, 99, 1),
        ({"cpus_per_replica": 3}, 2, 3),
        ({"cpus_per_replica": 1}, 8, 1),
    ],
)
def test_copies_without_gpus_share_a_machines_cores(ray, config, num_copies, num_cpus):
    cluster_of(**config)
    assert len(ray.actors) == num_copies
    assert (ray.options["num_cpus"], ray.options["num_gpus"]) == (num_cpus, 0)


def test_a_machine_more_than_twice_as_large_holds_more_copies(ray):
    ray.machines = [{"CPU": 4.0}, {"CPU": 9.0}]
    cluster_of()
    assert len(ray.actors) == 3
    assert ray.options["num_cpus"] == 4


def test_a_copy_takes_its_gpus_from_one_machine(ray):
    ray.machines = [{"CPU": 8.0, "GPU": 3.0}, {"CPU": 8.0, "GPU": 5.0}, {"CPU": 8.0}]
    teacher = cluster_of(engine=EngineConfig(max_num_seqs=2, tensor_parallel_size=2))
    assert len(ray.actors) == 3
    assert (ray.options["num_cpus"], ray.options["num_gpus"]) == (1, 2)
    teacher.close()
    assert not ray.running


def test_a_cluster_that_has_no_machines_yet_is_asked_for_one_copy(ray):
    ray.machines = [{}]
    cluster_of(gpus_per_replica=2)
    assert len(ray.actors) == 1
    assert (ray.options["num_cpus"], ray.options["num_gpus"]) == (1, 2)


def test_a_connection_of_somebody_else_is_left_open(ray):
    ray.running = True
    cluster_of().close()
    assert ray.running


@pytest.mark.usefixtures("ray")
def test_without_ray_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(TeacherError, match=r"potstill\[ray\]"):
        cluster_of()


def test_a_cluster_that_does_not_answer_is_named(monkeypatch, ray):
    def refuse(*_args, **_kwargs):
        raise ConnectionError("nobody there")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(TeacherError, match=r"10\.0\.0\.1:6379(.|\n)*nobody there"):
        cluster_of(address="10.0.0.1:6379")
