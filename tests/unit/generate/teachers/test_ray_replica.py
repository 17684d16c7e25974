import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import pytest

from generate.teachers import ray_replica
from generate.teachers.protocol import Sample, SampleRequest
from generate.teachers.ray_replica import Replica
from potstill.errors import TeacherError
from potstill.schema import SamplingParams

SAMPLING = SamplingParams(temperature=1.0, top_p=1.0, max_tokens=8, seed=0)


def request(name: str) -> SampleRequest:
    return SampleRequest(name, (1, 2), SAMPLING)


class StepTeacher:
    """Finishes one request when a test lets it; two fit at once."""

    end_token_ids = frozenset({2})

    def __init__(self) -> None:
        self.may_finish = threading.Semaphore(0)
        self.asked: list[int | None] = []
        self.dropped: list[str] = []
        self.closed = False

    def facts(self) -> dict[str, str]:
        return {"logprobs_mode": "raw_logprobs"}

    def sample(self, next_requests, *, top_logprobs) -> Iterator[Sample]:
        self.asked.append(top_logprobs)
        held = []
        try:
            while True:
                held.extend(next_requests(2 - len(held)))
                if not held:
                    return
                if held[0].request_id == "bad":
                    raise TeacherError("vLLM failed while sampling")
                assert self.may_finish.acquire(timeout=10)
                yield Sample(held.pop(0).request_id, (5, 2), None, "stop")
        finally:
            self.dropped += names(held)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def teacher() -> StepTeacher:
    return StepTeacher()


@pytest.fixture
def replica(teacher, tmp_path, monkeypatch) -> Replica:
    monkeypatch.setattr(ray_replica, "GATHER_SECONDS", 0.0)
    replica = Replica(lambda: teacher, [tmp_path])
    replica.load()
    return replica


@pytest.fixture
def working(replica) -> Iterator[Callable[..., Future]]:
    """Return a function that has the copy work on a thread of its own, as Ray does."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        yield partial(thread.submit, replica.work)
        replica.feed(99, [])


def names(samples) -> list[str]:
    return [sample.request_id for sample in samples]


def test_facts_identify_the_loaded_teacher(teacher, tmp_path):
    replica = Replica(lambda: teacher, [tmp_path])
    loaded = replica.load()
    assert loaded.end_token_ids == {2}
    assert loaded.facts == {"logprobs_mode": "raw_logprobs"}
    assert re.match(r"vllm(-cpu)? \d", loaded.engine)
    (tmp_path / "config.json").write_text("{}")
    assert replica.load().fingerprints != loaded.fingerprints


def test_a_result_leaves_while_others_are_in_the_making(replica, teacher, working):
    replica.feed(0, [request("a"), request("b")])
    work = working(0, "sample", 20)
    teacher.may_finish.release()
    assert names(replica.collect(0)) == ["a"]
    replica.feed(0, [request("joins the next step")])
    teacher.may_finish.release()
    assert names(replica.collect(0)) == ["b"]
    teacher.may_finish.release()
    assert names(replica.collect(0)) == ["joins the next step"]
    assert not work.done()


def test_what_comes_after_all_was_done_is_worked_on_too(replica, teacher, working):
    work = working(0, "sample", 20)
    for name in "ab":
        teacher.may_finish.release()
        replica.feed(0, [request(name)])
        assert names(replica.collect(0)) == [name]
    assert not work.done()


def test_a_later_run_drops_what_an_earlier_one_left(replica, teacher, working):
    replica.feed(1, [request("a"), request("b"), request("left waiting")])
    earlier = working(1, "sample", 20)
    teacher.may_finish.release()
    assert names(replica.collect(1)) == ["a"]
    replica.feed(2, [request("c")])
    teacher.may_finish.release(2)
    earlier.result(timeout=10)
    working(2, "sample", None)
    assert names(replica.collect(2)) == ["c"]
    assert teacher.dropped
    assert teacher.asked == [20, None]
    assert replica.collect(1) == []


def test_a_failing_engine_ends_the_work(replica, working):
    replica.feed(0, [request("bad")])
    with pytest.raises(TeacherError, match="vLLM failed"):
        working(0, "sample", 20).result(timeout=10)


def test_close_frees_the_teacher(replica, teacher):
    replica.close()
    assert teacher.closed
