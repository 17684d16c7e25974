import re
from collections.abc import Iterator

import pytest

from generate.teachers import ray_replica
from generate.teachers.protocol import Sample, SampleRequest
from generate.teachers.ray_replica import Replica
from potstill.schema import SamplingParams

SAMPLING = SamplingParams(temperature=1.0, top_p=1.0, max_tokens=8, seed=0)


def request(name: str) -> SampleRequest:
    return SampleRequest(name, (1, 2), SAMPLING)


class StepTeacher:
    """Finishes one request a step and remembers what it was asked; two fit at once."""

    end_token_ids = frozenset({2})

    def __init__(self) -> None:
        self.asked: list[int | None] = []
        self.num_dropped = 0
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
                yield Sample(held.pop(0).request_id, (5, 2), None, "stop")
        finally:
            self.num_dropped += len(held)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def teacher() -> StepTeacher:
    return StepTeacher()


@pytest.fixture
def replica(teacher, tmp_path) -> Replica:
    replica = Replica(lambda: teacher, [tmp_path])
    replica.load()
    return replica


def names(samples) -> list[str]:
    return [sample.request_id for sample in samples]


def test_loading_says_what_tells_this_teacher_from_another(teacher, tmp_path):
    replica = Replica(lambda: teacher, [tmp_path])
    loaded = replica.load()
    assert loaded.end_token_ids == {2}
    assert loaded.facts == {"logprobs_mode": "raw_logprobs"}
    assert re.match(r"vllm(-cpu)? \d", loaded.engine)
    (tmp_path / "config.json").write_text("{}")
    assert replica.load().fingerprints != loaded.fingerprints


def test_everything_fed_comes_back_once(replica):
    replica.feed(1, [request("a"), request("b")])
    replica.feed(1, [request("c")])
    assert names(replica.work(1, "sample", 20)) == ["a", "b", "c"]
    assert replica.work(1, "sample", 20) == []


def test_a_report_ends_in_time_and_the_next_goes_on(replica, teacher, monkeypatch):
    monkeypatch.setattr(ray_replica, "REPORT_SECONDS", 0.0)
    replica.feed(1, [request("a"), request("b")])
    assert names(replica.work(1, "sample", 20)) == ["a"]
    replica.feed(1, [request("c")])
    assert names(replica.work(1, "sample", 20)) == ["b"]
    assert names(replica.work(1, "sample", 20)) == ["c"]
    assert teacher.asked == [20]


def test_a_later_run_drops_what_an_earlier_one_left(replica, teacher, monkeypatch):
    monkeypatch.setattr(ray_replica, "REPORT_SECONDS", 0.0)
    replica.feed(1, [request("a"), request("b"), request("left waiting")])
    assert names(replica.work(1, "sample", 20)) == ["a"]
    # Fed before the copy has heard of the new run.
    replica.feed(2, [request("d")])
    assert names(replica.work(2, "sample", None)) == ["d"]
    assert teacher.num_dropped == 1
    assert teacher.asked == [20, None]
    assert replica.work(2, "sample", None) == []


def test_close_frees_the_teacher(replica, teacher):
    replica.close()
    assert teacher.closed
