"""Feedback, votes, results, the kill switch: what is stored, and by whom."""

import asyncio
import hashlib
import json
import re
import sqlite3
import subprocess
import threading
import time
from contextlib import closing
from itertools import groupby

import pytest
from sqlalchemy import Connection, select

from compare.judges.votes import read_votes
from potstill import former_names
from potstill.errors import BackendError, ContextLengthError
from serve.backends.protocol import ANSWER_HEADER, VARIANT_HEADER
from serve.errors import QueueFullError
from serve.keys import Key, KeyEntry, Keyring
from serve.storage import tables
from serve.storage.config import StorageConfig
from serve.storage.queries import blind_votes
from tests.fixtures.server_sent import events
from tests.fixtures.waiting import eventually

from .conftest import Reply, split


def key(name: str, *, admin: bool) -> Key:
    digest = hashlib.sha256(name.encode()).hexdigest()
    return Key(name, KeyEntry(sha256=digest, admin=admin))


@pytest.fixture
def server(live, no_shadow):
    return live(split(student=1, teacher=0, **no_shadow))


def test_an_administrators_act_is_stored_whatever_host_they_name(live, no_shadow, tmp_path):
    keyring = Keyring([key("root", admin=True)])
    server = live(split(**no_shadow), keyring=keyring)
    headers = {"Authorization": "Bearer root", "Host": "x/v1/experiments/assistant?"}
    path = "/v1/experiments/assistant/kill"
    assert server.client.post(path, headers=headers, json={}).status_code == 200
    headers["Host"] = "["
    assert server.client.get("/v1/none", headers=headers).status_code == 404

    def acts() -> list[str]:
        with closing(sqlite3.connect(tmp_path / "traffic.sqlite")) as database:
            return [act for (act,) in database.execute("SELECT act FROM acts")]

    assert eventually(lambda: acts() == [f"POST {path}"]), acts()


def test_a_full_disk_loses_no_act_and_undoes_no_kill(live, no_shadow, tiny_disk):
    disk = tiny_disk(1 << 20)
    path = disk / "traffic.sqlite"
    server = live(split(**no_shadow), storage=StorageConfig(url=f"sqlite:///{path}"))
    first = server.ask().json()["id"]
    while rate(server, server.ask("x" * 20_000).json()["id"], thumbs="up").status_code == 200:
        assert path.stat().st_size < 1 << 20
    for act in ("resume", "kill") * 40:
        answer = server.client.post(f"/v1/experiments/assistant/{act}", json={})
        assert answer.status_code == 200
    assert server.view()["state"] == "killed"
    assert server.ask().status_code == 200
    subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
    assert eventually(lambda: rate(server, first, thumbs="down").status_code == 200)

    def stored(query: str) -> list[str]:
        with closing(sqlite3.connect(path)) as database:
            return [value for (value,) in database.execute(query)]

    assert eventually(lambda: len(stored("SELECT act FROM acts")) == 80)
    assert stored("SELECT act FROM acts ORDER BY number")[-1].endswith("/kill")
    assert eventually(lambda: stored("SELECT state FROM experiments") == ["killed"])
    assert stored("PRAGMA integrity_check") == ["ok"]


def test_experiments_that_a_key_may_not_use_do_not_exist_for_it(live, no_shadow):
    digest = hashlib.sha256(b"eve").hexdigest()
    eve = Key("eve", KeyEntry(sha256=digest, models=("student",)))
    server = live(split(**no_shadow), keyring=Keyring([key("alice", admin=False), eve]))

    def listed(name: str) -> list[str]:
        headers = {"Authorization": f"Bearer {name}"}
        return server.client.get("/v1/experiments", headers=headers).json()["data"]

    assert (listed("alice"), listed("eve")) == (["assistant"], [])


def feedback_of(server) -> dict:
    return server.view()["variants"][0]["feedback"]


def rate(server, answer_id: str, **said):
    return server.client.post("/v1/feedback", json={"response_id": answer_id, **said})


def test_thumbs_and_scores_are_means_by_variant(server):
    ids = [server.ask().json()["id"] for _ in range(3)]
    assert rate(server, ids[0], thumbs="up").json() == {"stored": True}
    rate(server, ids[1], thumbs="down", comment="no")
    rate(server, ids[2], score=0.2)
    assert feedback_of(server) == {"n": 3, "mean": pytest.approx(0.4)}


def test_the_last_rating_of_an_answer_counts(server):
    answer_id = server.ask(stream=True).headers[ANSWER_HEADER]
    rate(server, answer_id, thumbs="down")
    rate(server, answer_id, thumbs="up")
    assert feedback_of(server) == {"n": 1, "mean": 1.0}


@pytest.mark.parametrize(
    "said",
    [{}, {"score": 1.5}, {"score": 0.5, "thumbs": "up"}, {"thumbs": "sideways"}],
)
def test_invalid_ratings_are_refused(server, said):
    assert rate(server, server.ask().json()["id"], **said).status_code == 400
    assert feedback_of(server)["n"] == 0


def test_an_unknown_answer_cannot_be_rated(server):
    response = rate(server, "chatcmpl-unknown", score=1)
    assert response.status_code == 404
    assert "no complete answer" in response.json()["error"]["message"]


def test_ratings_of_both_sides_are_compared_and_a_user_counts_once(live, no_shadow):
    server = live(split(student=1, teacher=1, **no_shadow))
    assert server.view()["ratings"] is None
    thumbs = {"student": ["up"] * 20, "teacher": ["down"] * 20}
    rated = []
    for number in range(400):
        answer = server.ask(user=f"u{number}")
        if left := thumbs[answer.headers[VARIANT_HEADER]]:
            rate(server, answer.headers[ANSWER_HEADER], thumbs=left.pop())
            rated.append(f"u{number}")
        if len(rated) == 40:
            break
    found = server.view()["ratings"]
    again = server.ask(user=rated[0]).headers[ANSWER_HEADER]
    rate(server, again, score=0.5)
    assert server.view()["ratings"] == found
    assert found["difference"] == 1.0
    assert sum(found["users"].values()) == 40
    # Twenty users a side show that the student is liked better, and not by how much.
    assert 0 < found["lower"] < 0.8
    assert found["upper"] == 1.0


def test_a_comment_is_redacted_beside_the_event_loop(live, no_shadow, monkeypatch):
    server = live(split(**no_shadow))
    answer_id = server.ask().headers[ANSWER_HEADER]
    threads = []

    def redacted(comment, _owner):
        threads.append(threading.current_thread().name)
        return comment

    monkeypatch.setattr(server.storage, "redacted", redacted)
    body = {"response_id": answer_id, "score": 1.0, "comment": "good"}
    assert server.client.post("/v1/feedback", json=body).json() == {"stored": True}
    assert threads == ["storage"]


def dealt(server, to: str = "Hi", settings=(), **more) -> list[dict]:
    """Ask two models under names that the server deals; return their answers."""
    names = server.client.post("/v1/deals", json={"models": ["student", "teacher"]}, **more).json()
    body = {"messages": [{"role": "user", "content": to}], **dict(settings)}
    path = "/v1/chat/completions"
    return [
        server.client.post(path, json=body | {"model": name}, **more).json()
        for name in names["models"]
    ]


def vote(server, answers: list[dict], preference: str, *, blind: bool = True, **more):
    ids = [one["id"] for one in answers]
    body = {"response_ids": ids, "preference": preference, "blind": blind}
    return server.client.post("/v1/votes", json=body, **more)


def for_(model: str, answers: list[dict]) -> str:
    """Return the preference for a model: a test knows what each of them says."""
    return "ab"[answers[1]["choices"][0]["message"]["content"].startswith(model)]


@pytest.fixture
def fast_votes(monkeypatch):
    monkeypatch.setattr("serve.experiment.dealing.VOTES_PER_MINUTE", 1000)


@pytest.mark.usefixtures("fast_votes")
def test_blind_votes_on_dealt_answers_decide(live, no_shadow):
    server = live(split(judge="votes", **no_shadow))
    for number, winner in enumerate(["student", "student", None]):
        answers = dealt(server, str(number))
        assert not {"student", "teacher"} & {answers[0]["model"], answers[1]["model"]}
        shown = vote(server, answers, for_(winner, answers) if winner else "tie").json()
        assert sorted(shown["models"]) == ["student", "teacher"]
    vote(server, dealt(server, "4"), "b", blind=False)
    verdict = server.view()["verdict"]
    assert (verdict["pairs"], verdict["win_rate"]) == (3, pytest.approx(2.5 / 3))
    assert (verdict["outcome"], verdict["voters"]) == ("INCONCLUSIVE", 1)
    for number in range(40):
        answers = dealt(server, f"more {number}")
        vote(server, answers, for_("teacher", answers))
    assert server.view()["verdict"]["outcome"] == "FAIL"


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages", "/v1/completions"])
def test_nothing_shows_a_dealt_model_before_the_vote(live, no_shadow, path):
    server = live(split(judge="votes", **no_shadow))
    models = {"models": ["student", "teacher"]}
    names = server.client.post("/v1/deals", json=models).json()["models"]
    said = {"messages": [{"role": "user", "content": "Hi"}], "input": "Hi", "prompt": "Hi"}
    for name, stream in zip(names, (True, False), strict=True):
        assert server.client.get(f"/v1/models/{name}").json()["id"] == name
        body = said | {"model": name, "max_tokens": 9, "stream": stream}
        answer = server.client.post(path, json=body).text
        # What it says is the test's own; its name and its prompt's length are not.
        shown = re.sub(r"(student|teacher):", "", answer)
        assert not re.search(r'student|teacher|(prompt|input)_tokens": ?[1-9]', shown)
    again = server.client.post(
        "/v1/deals",
        json={"models": server.client.post("/v1/deals", json=models).json()["models"]},
    )
    assert (again.status_code, again.json()["error"]["param"]) == (400, "models")


@pytest.mark.usefixtures("fast_votes")
def test_a_vote_that_shows_a_dealt_model_is_the_last_on_it(live, no_shadow):
    server = live(split(judge="votes", **no_shadow))
    answers = dealt(server)
    assert vote(server, answers, "tie", blind=False).json()["counts"] is False
    assert vote(server, answers, "a").status_code == 400
    mixed, named = dealt(server), server.ask("Hi", model="student").json()
    assert vote(server, [mixed[0], named], "tie", blind=False).status_code == 200
    assert vote(server, mixed, "a").status_code == 400


def test_a_blind_vote_is_on_what_was_dealt_to_the_voter_once(live, no_shadow):
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("a", "b")}
    keys = [Key(name, KeyEntry(sha256=one, admin=True)) for name, one in digests.items()]
    server = live(split(judge="votes", **no_shadow), keyring=Keyring(keys))
    mine, other = ({"headers": {"Authorization": f"Bearer {name}"}} for name in "ab")
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    path = "/v1/chat/completions"
    named = [
        server.client.post(path, json=body | {"model": model}, **mine).json()
        for model in ("student", "teacher")
    ]
    assert vote(server, named, "a", **mine).status_code == 400
    answers = dealt(server, **mine)
    again = server.client.post(path, json=body | {"model": answers[0]["model"]}, **mine)
    assert "answers once" in again.json()["error"]["message"]
    assert vote(server, answers, "a", **other).status_code == 400
    assert vote(server, answers, "a", **mine).status_code == 200
    assert vote(server, answers, "a", **mine).status_code == 400
    statuses = {vote(server, dealt(server, **mine), "a", **mine).status_code for _ in range(20)}
    assert statuses == {200, 429}


@pytest.mark.usefixtures("fast_votes")
@pytest.mark.parametrize(
    ("settings", "changed"),
    [
        ({"temperature": 0.0, "max_tokens": 9}, ["max_tokens", "temperature"]),
        ({"seed": 1}, ["seed"]),
        ({"verbose": True}, ["verbose"]),
        ({"response_format": {"type": "json_object"}}, ["response_format"]),
        ({"chat_template_kwargs": {"enable_thinking": False}}, ["chat_template_kwargs"]),
        ({"min_tokens": 500}, ["min_tokens"]),
        ({"temperature": None, "user": "me"}, []),
    ],
)
def test_a_vote_on_answers_under_other_settings_counts_for_nothing(
    live, no_shadow, settings, changed
):
    server = live(split(judge="votes", **no_shadow))
    answers = dealt(server, settings=settings)
    shown = vote(server, answers, for_("student", answers)).json()
    assert (shown["counts"], shown["settings"]) == (not changed, changed)
    listed = server.client.get("/v1/experiments/assistant/votes").text.splitlines()
    assert len(listed) == shown["counts"]


def _names_in(value: object) -> set[str]:
    inner = [*value.values()] if isinstance(value, dict) else value
    names = set(value) if isinstance(value, dict) else set()
    return names.union(*map(_names_in, inner)) if isinstance(inner, list) else names


def test_dealt_answers_of_all_models_have_the_same_fields(live, no_shadow, monkeypatch):
    server = live(split(judge="votes", **no_shadow))
    complete = Reply.complete

    async def of_another_server(self) -> dict:
        answer = await complete(self)
        if self.model is server.teacher:
            (choice,) = answer["choices"]
            choice |= {"stop_reason": None, "message": choice["message"] | {"audio": None}}
            answer |= {"service_tier": None, "choices": [choice]}
        return answer

    monkeypatch.setattr(Reply, "complete", of_another_server)
    whole = dealt(server)
    assert _names_in(whole[0]) == _names_in(whole[1])
    names = server.client.post("/v1/deals", json={"models": ["student", "teacher"]}).json()
    streams = [events(server.ask(model=name, stream=True)) for name in names["models"]]
    assert _names_in(streams[0]) == _names_in(streams[1])


@pytest.mark.parametrize(
    ("error", "status"), [(ContextLengthError("4096 tokens"), 400), (QueueFullError("there"), 429)]
)
def test_an_error_that_shows_a_dealt_model_ends_the_deal(live, no_shadow, error, status):
    server = live(split(judge="votes", **no_shadow))
    names = server.client.post("/v1/deals", json={"models": ["student", "teacher"]}).json()
    server.student.error = server.teacher.error = error
    server.student.chat = server.teacher.chat = server.student.refuse
    response = server.ask(model=names["models"][0])
    assert response.status_code == status
    assert "there" not in response.text
    del server.student.chat, server.teacher.chat
    server.student.error = server.teacher.error = None
    again = server.ask(model=names["models"][0]).status_code
    assert again == (200 if status == 429 else 400)


def test_texts_are_read_a_few_at_a_time(live, monkeypatch):
    monkeypatch.setattr("serve.storage.queries.MOST_CHARACTERS", 2000)
    monkeypatch.setattr("serve.storage.queries.VOTES_AT_ONCE", 2)
    server = live(split(student=1, teacher=0, judge="votes"))
    for number in range(5):
        server.ask("word " * 200, user=f"u{number}")
        answers = dealt(server)
        vote(server, answers, for_("student", answers))
    server.shadows(5)
    pairs = server.client.get("/v1/experiments/assistant/pairs?judge=j").json()
    assert (len(pairs["data"]), pairs["teacher_model"]) == (1, "teacher")
    listed = server.client.get("/v1/experiments/assistant/votes").text.splitlines()
    assert [json.loads(line)["voter"] for line in listed] == list("12345")

    def read(connection: Connection, after: int | None) -> list[str | None]:
        found = blind_votes(connection, ("student", "teacher"), 0.0, texts_after=after)
        return [one.messages and one.first.text for one in found]

    # A verdict needs no texts.
    assert asyncio.run(server.storage.read(lambda one: read(one, None))) == [None] * 5
    assert len(asyncio.run(server.storage.read(lambda one: read(one, 2)))) == 2


def test_deals_of_one_key_do_not_end_those_of_another(live, no_shadow, monkeypatch):
    monkeypatch.setattr("serve.experiment.dealing.MAX_DEALS", 5)
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("a", "b")}
    keys = [Key(name, KeyEntry(sha256=one)) for name, one in digests.items()]
    server = live(split(judge="votes", **no_shadow), keyring=Keyring(keys))
    mine, other = ({"headers": {"Authorization": f"Bearer {name}"}} for name in "ab")
    first, answers = dealt(server, **other), dealt(server, **mine)
    for _ in range(6):
        server.client.post("/v1/deals", json={"models": ["student", "teacher"]}, **other)
    assert vote(server, answers, "a", **mine).json()["counts"] is True
    assert vote(server, first, "a", **other).status_code == 400


def test_votes_that_count_for_nothing_are_limited_too(live, no_shadow):
    server = live(split(judge="votes", **no_shadow))
    answers = [server.ask(model=name).json() for name in ("student", "teacher")]
    statuses = [vote(server, answers, "a", blind=False).status_code for _ in range(14)]
    assert statuses == [*[200] * 12, 429, 429]


@pytest.mark.usefixtures("fast_votes")
def test_votes_decide_only_where_the_configuration_says_so(live, no_shadow):
    server = live(split(**no_shadow))
    for number in range(40):
        answers = dealt(server, str(number))
        vote(server, answers, for_("student", answers))
    assert server.view()["verdict"] is None


@pytest.mark.usefixtures("fast_votes")
def test_votes_on_answers_before_an_experiment_began_are_not_its_own(live, no_shadow):
    """The student may be another version since: its updates are tested under a new name."""
    first = live(split(judge="votes", **no_shadow))
    for number in range(3):
        vote(first, dealt(first, str(number)), "tie")
    again = live(split(judge="votes", **no_shadow))
    assert again.view()["verdict"]["pairs"] == 3
    other = live(experiments={"second": split(judge="votes", **no_shadow)})
    assert other.view("second")["verdict"] is None
    vote(other, dealt(other, "more"), "tie")
    assert other.view("second")["verdict"]["pairs"] == 1
    assert len(other.client.get("/v1/experiments/second/votes").text.splitlines()) == 1


def test_an_experiment_of_an_earlier_version_began_with_its_first_answer(live, no_shadow, tmp_path):
    server = live(split(**no_shadow))
    server.ask()
    with closing(sqlite3.connect(tmp_path / "traffic.sqlite")) as database, database:
        database.execute("DELETE FROM facts WHERE name LIKE 'began%'")
        (created,) = database.execute("SELECT min(created) FROM answers").fetchone()
    assert live(split(**no_shadow)).experiments["assistant"].began == pytest.approx(created)


def test_the_comparison_can_read_exported_votes(live, no_shadow, tmp_path):
    server = live(split(**no_shadow))
    for text, winner, blind in (("1", "teacher", True), ("2", None, True), ("3", "student", False)):
        answers = dealt(server, text)
        vote(server, answers, for_(winner, answers) if winner else "tie", blind=blind)
    path = tmp_path / "votes.jsonl"
    path.write_text(server.client.get("/v1/experiments/assistant/votes").text)
    (first, lost), (_, tied) = read_votes(path)
    assert (first.student, first.teacher) == ("student: 1", "teacher: 1")
    assert first.question.messages[0].content == "1"
    assert (lost.score, tied.score) == (0.0, 0.5)


def test_a_vote_is_between_two_answers_to_the_same(server):
    ids = [server.ask(text).json()["id"] for text in ("One", "Two")]
    for pair in (ids, [ids[0], ids[0]]):
        body = {"response_ids": pair, "preference": "a"}
        assert server.client.post("/v1/votes", json=body).status_code == 400
    body = {"response_ids": [ids[0], "other"], "preference": "a"}
    assert server.client.post("/v1/votes", json=body).status_code == 404


def test_a_view_has_the_fields_of_the_dashboard(server):
    server.ask("a b", user="me")
    assert server.client.get("/v1/experiments").json() == {"data": ["assistant"]}
    view = server.view()
    salt_id = view.pop("salt_id")
    student = view["variants"][0]
    assert 0 < student.pop("p50_seconds") <= student.pop("p95_seconds")
    assert view == {
        "name": "assistant",
        "state": "running",
        "variants": [
            {
                "name": "student", "model": "student", "weight": 1.0, "exposures": 1, "users": 1,
                "errors": 0, "error_rate": 0.0, "tokens_mean": 3.0,
                "feedback": {"n": 0, "mean": None},
            },
            {
                "name": "teacher", "model": "teacher", "weight": 0.0, "exposures": 0, "users": 0,
                "errors": 0, "error_rate": None, "p50_seconds": None, "p95_seconds": None,
                "tokens_mean": None, "feedback": {"n": 0, "mean": None},
            },
        ],
        "shadow": {"pairs": 0, "dropped": 0, "failed": 0, "queue": 0},
        "sample_ratio": {"p_value": 1.0, "is_mismatch": False},
        "guardrails": [
            {"name": "error_rate", "value": 0.0, "limit": 0.05, "is_breached": False}
        ],
        "verdict": None,
        "ratings": None,
    }  # fmt: skip
    assert len(salt_id) == 8
    assert server.client.get("/v1/experiments/other").status_code == 404


def test_a_killed_experiment_is_the_teachers_until_it_is_resumed(live, no_shadow):
    settings = split(student=1, teacher=0, **no_shadow)
    server = live(settings)
    post = {"json": {}}
    assert server.client.post("/v1/experiments/assistant/kill", **post).json()["state"] == "killed"
    assert server.ask().headers[VARIANT_HEADER] == "teacher"
    restarted = live(settings)
    assert restarted.ask().headers[VARIANT_HEADER] == "teacher"
    assert restarted.view()["state"] == "killed"
    resumed = restarted.client.post("/v1/experiments/assistant/resume", **post).json()
    assert resumed["state"] == "running"
    assert restarted.ask().headers[VARIANT_HEADER] == "student"
    # Users answered in the meantime were not assigned.
    assert [one["users"] for one in restarted.view()["variants"]] == [1, 0]


def test_a_kill_holds_while_the_storage_is_locked_and_is_written_after(
    live, no_shadow, tmp_path, monkeypatch
):
    monkeypatch.setattr("serve.experiment.backend.STATE_SECONDS", 0.05)
    for module in ("experiment.routes", "storage.storage"):
        monkeypatch.setattr(f"serve.{module}.COMMIT_PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr("serve.storage.storage.BUSY_SECONDS", 0.1)
    server = live(split(student=1, teacher=0, **no_shadow))
    path = "/v1/experiments/assistant"
    server.client.post(f"{path}/resume", json={})
    with closing(sqlite3.connect(tmp_path / "traffic.sqlite")) as other:
        other.execute("BEGIN IMMEDIATE")
        killed = server.client.post(f"{path}/kill", json={})
        assert (killed.status_code, killed.json()["state"]) == (200, "killed")
        time.sleep(0.5)
        assert server.view()["state"] == "killed"
        assert server.ask().headers[VARIANT_HEADER] == "teacher"
        other.rollback()
        query = "select state from experiments"
        assert eventually(lambda: other.execute(query).fetchall() == [("killed",)])


def test_feedback_is_answered_at_once_while_the_storage_is_locked(server, tmp_path, monkeypatch):
    monkeypatch.setattr("serve.storage.storage.COMMIT_PATIENCE_SECONDS", 0.1)
    answer_id = server.ask().json()["id"]
    with closing(sqlite3.connect(tmp_path / "traffic.sqlite")) as other:
        other.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        refused = [rate(server, answer_id, thumbs="up") for _ in range(3)]
        assert time.monotonic() - started < 5.0
        assert [(one.status_code, one.headers["retry-after"]) for one in refused] == [
            (503, "1")
        ] * 3
        other.rollback()
    assert eventually(lambda: rate(server, answer_id, thumbs="up").status_code == 200)


def test_results_and_the_switch_are_for_administrators(live, no_shadow):
    ring = Keyring([key("root", admin=True), key("guest", admin=False)])
    server = live(split(**no_shadow), keyring=ring)
    guest, root = ({"Authorization": f"Bearer {name}"} for name in ("guest", "root"))
    client = server.client
    answer = client.post(
        "/v1/chat/completions",
        json={"model": "assistant", "messages": [{"role": "user", "content": "Hi"}]},
        headers=guest,
    ).json()
    body = {"response_id": answer["id"], "thumbs": "up"}
    assert client.post("/v1/feedback", json=body, headers=guest).status_code == 200
    path = "/v1/experiments/assistant"
    assert client.get(path).status_code == 401
    assert client.get(path, headers=guest).status_code == 403
    assert client.get(f"{path}/pairs?judge=j", headers=guest).status_code == 403
    assert client.post(f"{path}/kill", json={}, headers=guest).status_code == 403
    assert "potstill_experiment" not in client.get("/metrics", headers=guest).text
    assert "potstill_experiment_state" in client.get("/metrics", headers=root).text
    assert client.get(path, headers=root).json()["state"] == "running"
    killed = client.post(f"{path}/kill", json={}, headers=root)
    assert killed.json()["state"] == "killed"
    columns = tables.acts.c
    query = select(columns.key, columns.act, columns.request_id)
    acts = asyncio.run(server.storage.write(lambda one: one.execute(query).all()))
    assert acts == [("root", f"POST {path}/kill", killed.headers["x-request-id"])]


def test_judged_pairs_leave_the_queue_and_make_the_verdict(live):
    server = live(split(student=1, teacher=0))
    for number in range(6):
        server.ask(f"Question {number}")
    server.shadows(6)
    path = "/v1/experiments/assistant"
    listed = server.client.get(f"{path}/pairs?judge=j&limit=4").json()
    assert listed["margin"] == listed["alpha"] == 0.05
    assert listed["teacher_model"] == "teacher"
    ids = [one["pair_id"] for one in listed["data"]]
    assert len(set(ids)) == 4

    def judge(ids: list[str], score: float, *, valid: bool = True) -> dict:
        judgments = [{"pair_id": one, "score": score} for one in ids]
        body = {"judge": "j", "is_valid": valid, "judgments": judgments}
        return server.client.post(f"{path}/judgments", json=body).json()["verdict"]

    assert judge(ids, 1.0)["pairs"] == 4
    verdict = judge(ids, 0.0)  # an earlier judgment stays
    assert (verdict["pairs"], verdict["win_rate"]) == (4, 1.0)
    left = server.client.get(f"{path}/pairs?judge=j").json()["data"]
    assert len(left) == 2
    assert not {one["pair_id"] for one in left} & set(ids)
    assert len(server.client.get(f"{path}/pairs?judge=other").json()["data"]) == 6
    busy = server.client.get(f"{path}/pairs?judge=j&quiet_seconds=3600").json()["data"]
    assert busy == []
    assert judge([], 0.0, valid=False)["outcome"] == "INVALID_JUDGE"


def test_pairs_come_by_whole_users_and_count_once_for_each(live):
    """Without a user's name, all turns of a conversation are one observation."""
    server = live(split(student=1, teacher=0))
    for turn in range(3):
        for number in range(4):
            named = {"user": f"u{number}"} if number < 2 else {}
            opening = [{"role": "user", "content": f"Question {number}"}]
            later = [{"role": "assistant", "content": "A"}, {"role": "user", "content": "And?"}]
            server.ask(messages=opening + turn * later, **named)
    server.ask("Another question", user="u0")
    server.shadows(13)
    path = "/v1/experiments/assistant"
    listed = server.client.get(f"{path}/pairs?judge=j&limit=6").json()["data"]
    assert [len(list(one)) for _, one in groupby(one["user"] for one in listed)] == [4]
    assert len({one["conversation"] for one in listed}) == 2
    verdict = judged(server)
    assert verdict["pairs"] == 13
    whole = server.client.get(f"{path}/pairs?judge=other&limit=13").json()["data"]
    assert len({one["user"] for one in whole}) == 4


def test_only_the_student_s_own_conversations_move_the_verdict(live):
    server = live(split())
    for number in range(20):
        server.ask(user=f"u{number}")
    server.shadows(20)
    verdict = judged(server)
    own = server.view()["variants"][0]
    assert (own["name"], verdict["conversations_of"]) == ("student", "student")
    assert 0 < verdict["pairs"] == own["exposures"] < 20


def judged(server, judge: str = "j") -> dict:
    """Judge all open pairs as a sound judge of equal answers does; return the verdict."""
    path = "/v1/experiments/assistant"
    pairs = server.client.get(f"{path}/pairs?judge={judge}").json()["data"]
    scores = [
        {"pair_id": one["pair_id"],
         "score": 0.0 if one["student_failed"] else 1.0 if one["teacher_failed"] else 0.5}
        for one in pairs
    ]  # fmt: skip
    body = {"judge": judge, "is_valid": True, "judgments": scores}
    return server.client.post(f"{path}/judgments", json=body).json()["verdict"]


@pytest.mark.slow
def test_failures_are_lost_pairs_in_the_verdict(live):
    server = live(split(student=0, teacher=1, guardrails={"most_errors": 0.99}))
    for number in range(80):
        server.student.error = BackendError("broken") if number % 2 else None
        server.ask(user=f"u{number}")
        server.shadows(number + 1)
    verdict = judged(server)
    assert (verdict["win_rate"], verdict["outcome"]) == (0.25, "FAIL")
    assert verdict["failed"] == {"student": 40, "teacher": 0}


def test_no_student_passes_against_an_unavailable_teacher(live):
    server = live(split(student=1, teacher=0))
    server.teacher.error = BackendError("away")
    for number in range(80):
        server.ask(user=f"u{number}")
    server.shadows(80)
    verdict = judged(server)
    assert (verdict["win_rate"], verdict["outcome"]) == (1.0, "INCONCLUSIVE")
    assert verdict["is_withheld"]
    assert verdict["failed"] == {"student": 0, "teacher": 80}


def test_prometheus_sees_variants_shadows_guardrails_and_the_state(live):
    server = live(split(student=1, teacher=0, shadow={"queue": 1, "timeout_seconds": 60}))

    def series() -> dict[str, float]:
        lines = server.client.get("/metrics").text.splitlines()
        found = (line.rpartition(" ") for line in lines if line.startswith("potstill_experiment"))
        return {name.removeprefix("potstill_experiment_"): float(value) for name, _, value in found}

    of_student = 'experiment="assistant",variant="student"'
    server.ask()
    server.shadows(1)
    found = series()
    assert found['answers_total{experiment="assistant",outcome="whole",variant="student"}'] == 1
    name = 'shadow_answers_total{experiment="assistant",outcome="whole",variant="teacher"}'
    assert found[name] == 1
    assert found[f"answer_seconds_count{{{of_student}}}"] == 1
    assert found['state{experiment="assistant",state="running"}'] == 1
    of_errors = 'experiment="assistant",guardrail="error_rate"'
    assert found[f"guardrail_rate{{{of_errors}}}"] == 0.0
    assert found[f"guardrail_limit{{{of_errors}}}"] == 0.05

    server.teacher.seconds = 60
    for _ in range(4):
        server.ask()
    found = series()
    assert found['shadow_waiting{experiment="assistant"}'] == 1
    assert found['shadow_dropped_total{experiment="assistant"}'] in (2, 3)

    server.student.error, server.teacher.seconds = BackendError("broken"), 0.0
    while server.ask().status_code == 500:
        pass
    found = series()
    assert found['answers_total{experiment="assistant",outcome="failed",variant="student"}'] > 1
    assert found['state{experiment="assistant",state="fallback"}'] == 1
    assert found['state{experiment="assistant",state="running"}'] == 0
    assert found[f"guardrail_breached{{{of_errors}}}"] == 1


def test_without_texts_only_counts_and_scores_are_stored(live, tmp_path):
    server = live(split(student=1, teacher=0), storage=StorageConfig(text=False))
    answer = server.ask("My secret").json()
    server.ask("My secret", model="teacher")
    server.shadows(1)
    rate(server, answer["id"], score=1, comment="My secret")
    with sqlite3.connect(tmp_path / "traffic.sqlite") as connection:
        dump = "\n".join(connection.iterdump())
    assert answer["id"] in dump
    assert "secret" not in dump
    assert server.client.get("/v1/experiments/assistant/pairs?judge=j").json()["data"] == []
    assert feedback_of(server) == {"n": 1, "mean": 1.0}


def test_a_split_that_differs_from_the_weights_is_reported(live, no_shadow, tmp_path):
    server = live(split(**no_shadow))
    for number in range(30):
        server.ask(user=f"u{number}")
    assert not server.view()["sample_ratio"]["is_mismatch"]
    with sqlite3.connect(tmp_path / "traffic.sqlite") as connection:
        connection.execute("update users set variant = 'student'")
    ratio = server.view()["sample_ratio"]
    assert ratio["is_mismatch"]
    assert ratio["p_value"] < 0.001


def test_judgments_are_taken_under_their_former_name(live):
    server = live(split(student=1, teacher=0))
    server.ask("Question")
    server.shadows(1)
    path = "/v1/experiments/assistant"
    (pair,) = server.client.get(f"{path}/pairs?judge=j").json()["data"]
    judgments = [{"pair_id": pair["pair_id"], "score": 1.0}]
    former = {american: british for british, american in former_names.KEYS.items()}
    body = {"judge": "j", "is_valid": True, former["judgments"]: judgments}
    former_path = former_names.JUDGMENTS_PATH.format(name="assistant")
    answer = server.client.post(former_path, json=body)
    assert answer.json()["verdict"]["pairs"] == 1
