"""An experiment between client and models: variants, ids, storage, fallback."""

import sqlite3

import pytest
from starlette.testclient import TestClient

from potstill.errors import BackendError, ContextLengthError
from serve.backends.protocol import ANSWER_HEADER, VARIANT_HEADER
from serve.errors import InvalidRequestError, QueueFullError, RateLimitError
from tests.fixtures.server_sent import events
from tests.fixtures.waiting import eventually

from .conftest import LiveServer, split


def rows(path, query):
    with sqlite3.connect(path / "traffic.sqlite") as connection:
        return connection.execute(query).fetchall()


def variant_of(server: LiveServer, user: str) -> str:
    return server.ask(user=user).headers[VARIANT_HEADER]


def test_a_user_gets_the_same_variant_each_time(live, no_shadow):
    server = live(split(**no_shadow))
    first = [variant_of(server, f"u{n}") for n in range(20)]
    assert set(first) == {"student", "teacher"}
    assert [variant_of(server, f"u{n}") for n in range(20)] == first


class Watcher:
    """Keeps what each chat ended with."""

    def __init__(self) -> None:
        self.ends = []

    def watch(self, *_chat):
        return self

    def piece(self):
        pass

    def end(self, completion, headers, error):
        self.ends.append((completion is not None, headers.get("x-potstill-variant"), error))


@pytest.mark.parametrize("stream", [False, True])
def test_whoever_follows_chats_hears_of_the_variant(live, no_shadow, stream):
    watcher = Watcher()
    server = live(split(**no_shadow), watcher=watcher)
    response = server.ask(user="u1", stream=stream)
    assert watcher.ends == [(True, response.headers["x-potstill-variant"], None)]


def test_variants_stay_after_a_restart(live, no_shadow):
    first = [variant_of(live(split(**no_shadow)), f"u{n}") for n in range(10)]
    again = live(split(**no_shadow))
    assert [variant_of(again, f"u{n}") for n in range(10)] == first
    assert len(set(first)) == 2


@pytest.mark.parametrize("variant", ["student", "teacher"])
def test_an_answer_is_the_variants_under_an_id_of_the_experiment(live, no_shadow, variant):
    weights = {"student": 0, "teacher": 0} | {variant: 1}
    response = live(split(**weights, **no_shadow)).ask("Ho")
    answer = response.json()
    assert answer["choices"][0]["message"]["content"] == f"{variant}: Ho"
    assert answer["model"] == variant
    assert response.headers[VARIANT_HEADER] == variant
    assert response.headers[ANSWER_HEADER] == answer["id"]
    assert "own" not in answer["id"]


@pytest.mark.parametrize("wants_usage", [False, True])
def test_a_stream_has_one_id_and_usage_only_if_requested(live, no_shadow, wants_usage):
    options = {"stream_options": {"include_usage": True}} if wants_usage else {}
    response = live(split(**no_shadow)).ask("Ho", stream=True, **options)
    chunks = events(response)
    assert {chunk["id"] for chunk in chunks} == {response.headers[ANSWER_HEADER]}
    assert any(chunk.get("usage") for chunk in chunks) == wants_usage
    texts = [choice["delta"].get("content") for chunk in chunks for choice in chunk["choices"]]
    assert "".join(filter(None, texts)) == f"{response.headers[VARIANT_HEADER]}: Ho"


def test_the_responses_api_is_part_of_an_experiment(live, no_shadow, tmp_path):
    server = live(split(**no_shadow))
    response = server.client.post("/v1/responses", json={"model": "assistant", "input": "Ho"})
    stored = rows(tmp_path, "select id, answer from answers")
    assert stored == [(response.headers[ANSWER_HEADER], f"{response.headers[VARIANT_HEADER]}: Ho")]


def test_an_answer_is_stored_before_its_client_has_all_of_it(live, no_shadow, tmp_path):
    server = live(split(**no_shadow))
    for number in range(5):
        server.ask(str(number), user="me", stream=number % 2 == 1).read()
        assert rows(tmp_path, "select count(*) from answers") == [(number + 1,)]
    (stored,) = set(rows(tmp_path, 'select outcome, "user", conversation is null from answers'))
    assert stored[0] == "whole"
    assert stored[2] == 0
    assert "me" not in stored[1]


def test_turns_of_a_conversation_share_its_hash(live, no_shadow, tmp_path):
    server = live(split(**no_shadow))
    first = [{"role": "user", "content": "One?"}]
    second = [*first, {"role": "assistant", "content": "1"}, {"role": "user", "content": "Two?"}]
    for messages in (first, second, [{"role": "user", "content": "Else?"}]):
        server.ask(messages=messages, user="me")
    stored = rows(tmp_path, "select conversation, prompt from answers order by number")
    assert stored[0][0] == stored[1][0] != stored[2][0]
    assert len({prompt for _, prompt in stored}) == 3


def test_the_other_variant_answers_in_the_shadow(live):
    server = live(split(student=1, teacher=0))
    answer = server.ask("Ho", stream=True, stream_options={"include_usage": True})
    assert server.shadows(1) == {"pairs": 1, "dropped": 0, "failed": 0, "queue": 0}
    pair = server.client.get("/v1/experiments/assistant/pairs?judge=j").json()["data"]
    assert [(one["student"], one["teacher"]) for one in pair] == [("student: Ho", "teacher: Ho")]
    assert pair[0]["pair_id"] == answer.headers[ANSWER_HEADER]
    assert pair[0]["messages"] == [{"role": "user", "content": "Ho"}]
    (asked,) = server.teacher.requests
    assert asked.stream is False
    assert server.view()["variants"][1]["exposures"] == 0


def test_a_shadow_has_one_choice(live):
    server = live(split(student=1, teacher=0))
    server.ask("Ho", n=100, logprobs=True, top_logprobs=5, temperature=0.5)
    server.ask("Ho")
    server.shadows(2)
    many, plain = server.teacher.requests
    assert (many.n, many.logprobs, many.top_logprobs, many.temperature) == (1, None, None, 0.5)
    assert "n" not in plain.model_fields_set
    assert server.student.requests[0].n == 100


def test_a_shadow_that_fails_is_counted_and_reaches_no_client(live):
    server = live(split(student=1, teacher=0))
    server.teacher.error = RuntimeError("broken")
    assert all(server.ask().status_code == 200 for _ in range(3))
    assert server.shadows(3)["failed"] == 3
    view = server.view()
    assert view["state"] == "running"
    assert [one["errors"] for one in view["variants"]] == [0, 0]


def pairs(server: LiveServer) -> list[dict]:
    return server.client.get("/v1/experiments/assistant/pairs?judge=j").json()["data"]


@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize("answers_client", [True, False])
def test_the_side_that_fails_loses_the_pair(live, side, answers_client):
    weights = {"student": 0, "teacher": 0}
    other = "teacher" if side == "student" else "student"
    weights[side if answers_client else other] = 1
    server = live(split(**weights))
    getattr(server, side).error = BackendError("broken")
    assert server.ask("Ho").status_code == (500 if answers_client else 200)
    server.shadows(1)
    (pair,) = pairs(server)
    assert (pair[f"{side}_failed"], pair[f"{other}_failed"]) == (True, False)
    assert (pair[side], pair[other]) == ("", f"{other}: Ho")


def test_there_is_no_pair_if_both_sides_fail(live):
    server = live(split(student=1, teacher=0))
    server.student.error = server.teacher.error = BackendError("broken")
    server.ask()
    server.shadows(1)
    assert pairs(server) == []


def test_failed_pairs_may_be_left_out(live):
    server = live(split(student=1, teacher=0, failed_pairs="leave_out"))
    server.ask("One")
    server.teacher.error = BackendError("broken")
    server.ask("Two")
    server.shadows(2)
    assert [one["messages"][0]["content"] for one in pairs(server)] == ["One"]


def test_failures_in_the_shadow_breach_the_guardrail_too(live):
    server = live(split(student=0, teacher=1, guardrails={"slow_seconds": 1e-9}))
    for _ in range(20):
        server.ask()
    assert server.shadows(20)["pairs"] == 20
    errors, slow = server.view()["guardrails"]
    assert (errors["value"], slow["value"]) == (0.0, None)  # no client waits for a shadow
    server.student.error = BackendError("broken")
    for _ in range(20):
        server.ask()
    assert eventually(lambda: server.view()["state"] == "fallback")


def test_a_prompt_too_long_for_the_student_loses_but_is_no_error(live):
    server = live(split(student=0, teacher=1))
    server.student.error = ContextLengthError("too long")
    server.ask()
    server.shadows(1)
    assert pairs(server)[0]["student_failed"]
    assert server.view()["guardrails"][0]["value"] is None


def test_a_shadow_that_hangs_fills_its_queue_and_drops(live):
    server = live(split(student=1, teacher=0, shadow={"queue": 2, "timeout_seconds": 60}))
    server.teacher.seconds = 60
    assert all(server.ask().status_code == 200 for _ in range(6))
    shadow = server.view()["shadow"]
    assert shadow["queue"] == 2
    assert shadow["dropped"] in (3, 4)  # the worker may not have taken the first yet


def test_waiting_shadows_are_bounded_by_the_size_of_their_requests(live):
    server = live(split(student=1, teacher=0, shadow={"timeout_seconds": 60}))
    server.teacher.seconds = 60
    large = {"metadata": {"a": "b" * (3 << 20)}}
    assert all(server.ask(**large).status_code == 200 for _ in range(6))
    assert server.ask().status_code == 200
    shadow = server.view()["shadow"]
    assert shadow["queue"] == 3  # two large ones, and the small one
    assert shadow["dropped"] in (3, 4)  # the worker may not have taken the first yet


def test_failures_of_a_variant_reach_the_client_and_its_record(live, no_shadow):
    server = live(split(student=0, teacher=1, **no_shadow))
    server.teacher.error = BackendError("broken")
    assert server.ask().status_code == 500
    assert server.ask(stream=True).status_code == 200
    student, teacher = server.view()["variants"]
    assert (teacher["exposures"], teacher["errors"], teacher["error_rate"]) == (2, 2, 1.0)
    assert teacher["p50_seconds"] is None
    assert student["exposures"] == 0


@pytest.mark.parametrize(
    ("error", "status"),
    [(InvalidRequestError("bad"), 400), (QueueFullError("full"), 429), (RateLimitError("x"), 429)],
)
def test_errors_that_are_no_model_s_are_not_counted(live, no_shadow, tmp_path, error, status):
    server = live(split(**no_shadow))
    server.student.error = server.teacher.error = error
    for stream in (False, True):
        assert server.ask(stream=stream).status_code == (200 if stream else status)
    assert rows(tmp_path, "select outcome from answers") == []
    assert server.view()["guardrails"][0]["value"] is None


def test_a_shadow_that_finds_no_room_is_dropped(live, tmp_path):
    server = live(split(student=0, teacher=1))
    server.student.error = QueueFullError("full")
    server.ask()
    assert eventually(lambda: server.view()["shadow"]["dropped"] == 1)
    assert rows(tmp_path, "select outcome from answers") == [("whole",)]
    assert server.view()["guardrails"][0]["value"] is None


def test_the_teacher_takes_over_from_a_student_that_fails(live, no_shadow):
    server = live(split(student=1, teacher=0, **no_shadow))
    server.student.error = BackendError("broken")
    statuses = [server.ask().status_code for _ in range(40)]
    num_failed = statuses.count(500)
    assert 0 < num_failed < 20
    assert statuses == [500] * num_failed + [200] * (40 - num_failed)
    view = server.view()
    assert view["state"] == "fallback"
    (guard,) = view["guardrails"]
    assert guard == {"name": "error_rate", "value": 1.0, "limit": 0.05, "is_breached": True}
    assert live(split(student=1, teacher=0, **no_shadow)).view()["state"] == "fallback"


@pytest.mark.parametrize(
    ("guardrails", "name"),
    [({"slow_seconds": 0.001}, "slow_rate"), ({"long_tokens": 3}, "long_rate")],
)
def test_slow_and_long_answers_are_guarded_too(live, no_shadow, guardrails, name):
    server = live(split(student=1, teacher=0, guardrails=guardrails, **no_shadow))
    server.student.seconds = 0.002
    for _ in range(20):
        server.ask("a long answer")
    view = server.view()
    assert view["state"] == "fallback"
    assert [one["name"] for one in view["guardrails"] if one["is_breached"]] == [name]


def test_a_sound_student_stays(live, no_shadow):
    server = live(
        split(student=1, teacher=0, guardrails={"slow_seconds": 60, "long_tokens": 50}, **no_shadow)
    )
    for _ in range(50):
        server.ask()
    view = server.view()
    assert view["state"] == "running"
    assert [one["value"] for one in view["guardrails"]] == [0.0, 0.0, 0.0]


def test_an_experiment_is_a_model_among_others(live, no_shadow):
    server = live(split(**no_shadow))
    listed = [one["id"] for one in server.client.get("/v1/models").json()["data"]]
    assert listed == ["student", "teacher", "assistant"]
    response = server.client.post("/v1/completions", json={"model": "assistant", "prompt": "x"})
    assert response.status_code == 400
    server.student.is_ready = False
    assert server.client.get("/readyz").json()["not_ready"] == ["student"]
    assert isinstance(server.client, TestClient)
