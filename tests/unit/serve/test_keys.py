"""Keys: names, limits, and that they are nowhere in clear text."""

import asyncio
import hashlib
import time
from datetime import datetime

import pytest
from starlette.testclient import TestClient

from potstill.errors import ConfigError
from potstill.task.task import Task
from serve.api.app import create_app
from serve.api.auth import RequireKey
from serve.engine.request import EngineLimits
from serve.engine.stats import EngineStats
from serve.errors import InvalidRequestError, RateLimitError
from serve.keys import SeveralKeys, load_keys
from serve.metrics import Metrics
from serve.rate_limits import Bucket
from serve.wire.models import model_card


def entry(name: str, *keys: str, **settings: object) -> str:
    digests = [hashlib.sha256(key.encode()).hexdigest() for key in keys]
    accepted = digests[0] if len(digests) == 1 else digests
    lines = [f"[keys.{name}]", f"sha256 = {accepted!r}"]
    return "\n".join(lines + [f"{key} = {value}" for key, value in settings.items()]) + "\n"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "keys.toml"
    path.write_text(entry("alice", "sk-a") + entry("bob", "sk-b", requests_per_minute=2))
    return path


def test_a_key_is_found_by_its_hash(path):
    keyring = load_keys(path, "sk-env")
    found = [keyring.find(key) for key in ("sk-a", "sk-b", "sk-env")]
    assert [key.name for key in found] == ["alice", "bob", "environment"]
    assert keyring.find("sk-c") is None
    assert keyring.find("schlüssel") is None
    assert load_keys(None, "") is None


@pytest.mark.parametrize(
    "text",
    ["", "[keys]", '[keys.a]\nsha256 = "sk-secret"', '[keys.a]\nkey = "sk-secret"', "= 1"],
)
def test_a_damaged_file_is_refused_and_not_shown(tmp_path, text):
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="file of keys") as caught:
        load_keys(path, None)
    assert "sk-secret" not in str(caught.value)


def test_keys_change_without_a_restart(path, monkeypatch):
    monkeypatch.setattr("serve.keys.CHECK_SECONDS", 0.0)
    keyring = load_keys(path, None)
    bob = keyring.find("sk-b")
    bob.requests.take(2)
    path.write_text(entry("bob", "sk-b", requests_per_minute=2) + entry("carol", "sk-c", "sk-c2"))
    assert keyring.find("sk-a") is None
    assert keyring.find("sk-b") is bob
    assert keyring.find("sk-c") is keyring.find("sk-c2") is not None
    path.write_text("damaged")
    assert keyring.find("sk-b") is bob
    path.write_text(entry("bob", "sk-b2", requests_per_minute=2))
    assert keyring.find("sk-b") is None
    assert keyring.find("sk-b2").name == "bob"


def test_what_a_name_has_used_stays_used_however_its_table_changes(path, monkeypatch):
    monkeypatch.setattr("serve.keys.CHECK_SECONDS", 0.0)
    path.write_text(entry("alice", "sk-a") + entry("bob", "sk-b", tokens_per_day=1000))
    keyring = load_keys(path, None)
    bob = keyring.find("sk-b")
    running = bob.reserve(900)
    bob.num_active = 1
    path.write_text(entry("bob", "sk-b", "sk-new", tokens_per_day=1200, max_concurrent=1))
    again = keyring.find("sk-new")
    assert again.daily_tokens.allowance.remaining == 300
    assert again.admit() > 0  # its request in progress counts
    path.write_text(entry("alice", "sk-a"))  # as an editor that writes in two steps
    assert keyring.find("sk-b") is None
    path.write_text(entry("bob", "sk-b", tokens_per_day=500))
    assert keyring.find("sk-b").daily_tokens.allowance.remaining == 0
    running.settle(0)
    assert keyring.find("sk-b").daily_tokens.allowance.remaining == 500


def test_keys_that_come_later_share_with_the_first_one(path, monkeypatch):
    monkeypatch.setattr("serve.keys.CHECK_SECONDS", 0.0)
    path.write_text(entry("alice", "sk-a"))
    keyring = load_keys(path, None)
    limits = EngineLimits(
        context_tokens=64,
        max_parallel=8,
        max_batch_tokens=8,
        max_queue=4,
        has_owners=SeveralKeys(keyring),
    )
    assert limits.share_of(8) == 8
    path.write_text(entry("alice", "sk-a") + entry("bob", "sk-b"))
    assert keyring.find("sk-b") is not None
    assert limits.share_of(8) == 4


def test_thousands_of_keys_cost_a_request_nothing(path):
    num_keys = 20_000
    path.write_text("".join(entry(f"k{n}", f"sk-{n}") for n in range(num_keys)))
    keyring = load_keys(path, None)
    started = time.process_time()
    for n in range(0, num_keys, 100):
        assert keyring.find(f"sk-{n}").name == f"k{n}"
    assert time.process_time() - started < 0.2  # all keys compared each time: 1 s


@pytest.mark.parametrize(
    ("expires", "is_accepted"),
    [("2001-01-01", False), ("2999-01-01", True), ("2001-01-01T00:00:00Z", False),
     ("2999-01-01T00:00:00+02:00", True)],
)  # fmt: skip
def test_an_expired_key_is_not_accepted(path, expires, is_accepted):
    path.write_text(entry("dora", "sk-d", expires=expires))
    assert (load_keys(path, None).find("sk-d") is not None) == is_accepted


class Past(datetime):
    """A clock that shows 1970."""

    @classmethod
    def now(cls, tz=None):
        return datetime.fromtimestamp(0, tz)


def test_a_clock_that_is_set_back_accepts_no_expired_key_again(path, monkeypatch):
    path.write_text(entry("dora", "sk-d", expires="2001-01-01"))
    keyring = load_keys(path, None)
    assert keyring.find("sk-d") is None
    monkeypatch.setattr("serve.keys.time.time", lambda: 0.0)
    monkeypatch.setattr("serve.keys.datetime", Past)
    assert keyring.find("sk-d") is None


def test_a_time_without_its_zone_is_refused(path):
    path.write_text(entry("dora", "sk-d", expires="2999-01-01T12:00:00"))
    with pytest.raises(ConfigError):
        load_keys(path, None)


def test_tokens_of_a_day_are_limited_too(path):
    path.write_text(entry("carol", "sk-c", tokens_per_minute=1000, tokens_per_day=1500))
    key = load_keys(path, None).find("sk-c")
    key.reserve(1000)
    with pytest.raises(RateLimitError, match="minute"):
        key.reserve(400)
    key.tokens.take(-1000)
    with pytest.raises(RateLimitError, match="day"):
        key.reserve(600)
    key.reserve(400).settle(0)
    assert key.daily_tokens.allowance.remaining == 500


def test_a_limit_fills_up_evenly():
    now = 0.0
    bucket = Bucket(60, now=lambda: now)
    bucket.take(60)
    assert bucket.seconds_until(1) == pytest.approx(1)
    now = 0.5
    assert bucket.seconds_until(1) == pytest.approx(0.5)
    now = 1.0
    assert bucket.seconds_until(1) == 0
    bucket.take(100)
    assert bucket.allowance.remaining == 0
    assert bucket.seconds_until(1) == pytest.approx(100)
    now = 1000.0
    assert bucket.allowance.remaining == 60


@pytest.fixture
def client(path):
    return TestClient(create_app({}, keyring=load_keys(path, None)))


TASK = Task(metrics=(), examples=(), references=())


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_requests_need_a_key(client):
    for headers in ({}, bearer("wrong"), bearer(""), {"Authorization": "Basic sk-a"}):
        response = client.get("/v1/models", headers=headers)
        assert response.status_code == 401
        assert response.json()["error"]["code"] == "invalid_api_key"
        assert response.headers["www-authenticate"] == "Bearer"
    assert client.get("/v1/models", headers=bearer("sk-a")).status_code == 200
    assert client.get("/openapi.json").status_code == 401
    assert client.get("/healthz").status_code == 200
    # Nobody's body is read without a key.
    assert client.post("/healthz", json={}).status_code == 401


class Named:
    """A model that is only listed."""

    is_ready = True

    def __init__(self, name: str) -> None:
        self.card = model_card(name, 1)


def test_models_that_a_key_may_not_use_do_not_exist_for_it(path):
    path.write_text(entry("alice", "sk-a") + entry("eve", "sk-e", models=["small"]))
    backends = {name: Named(name) for name in ("small", "large")}
    app = create_app(backends, keyring=load_keys(path, None), fallback_model="large")
    client = TestClient(app)

    def listed(key: str) -> list[str]:
        return [one["id"] for one in client.get("/v1/models", headers=bearer(key)).json()["data"]]

    assert (listed("sk-a"), listed("sk-e")) == (["small", "large"], ["small"])
    for name, status in (("small", 400), ("large", 404), ("other", 404)):
        body = {"model": name, "prompt": "Hi"}
        response = client.post("/v1/completions", json=body, headers=bearer("sk-e"))
        assert response.status_code == status, name


def test_names_of_models_that_a_key_may_not_use_are_nowhere(path):
    path.write_text(entry("alice", "sk-a") + entry("eve", "sk-e", models=["small"]))
    backends = {name: Named(name) for name in ("small", "large")}
    backends["large"].is_ready = False
    metrics = Metrics()
    for name in backends:
        metrics.watch(name, lambda: EngineStats(*[0] * 13)).start().tick(0, 1)
    app = create_app(backends, keyring=load_keys(path, None), metrics=metrics, task=TASK)
    client = TestClient(app)
    restricted, open_ = (client.get("/metrics", headers=bearer(k)).text for k in ("sk-e", "sk-a"))
    for name, count in (("small", (1, 1)), ("large", (0, 1))):
        wanted = f'potstill_time_to_first_token_seconds_count{{model="{name}"}} 1.0'
        assert (restricted.count(wanted), open_.count(wanted)) == count
    assert "large" not in restricted
    assert 'potstill_steps_total{model="large"}' in open_
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()) == (503, {"num_not_ready": 1})
    assert client.get("/v1/task", headers=bearer("sk-e")).status_code == 404
    assert client.get("/v1/task", headers=bearer("sk-a")).status_code == 200


def test_requests_of_a_key_at_once_are_limited(path):
    path.write_text(entry("frank", "sk-f", max_concurrent=1))
    keyring = load_keys(path, None)
    entered, may_end, statuses = asyncio.Event(), asyncio.Event(), []

    async def wait(_scope, _receive, send) -> None:
        entered.set()
        await may_end.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def ask(app: RequireKey) -> None:
        async def send(message) -> None:
            statuses.append(message.get("status"))

        headers = [(b"authorization", b"Bearer sk-f")]
        await app({"type": "http", "method": "POST", "path": "/", "headers": headers}, None, send)

    async def scenario() -> None:
        app = RequireKey(wait, keyring)
        first = asyncio.create_task(ask(app))
        await entered.wait()
        await ask(app)
        may_end.set()
        await first
        await ask(app)

    asyncio.run(scenario())
    assert [status for status in statuses if status] == [429, 200, 200]


def test_failures_of_an_address_are_logged_and_then_throttled(client, caplog, monkeypatch):
    monkeypatch.setattr("serve.api.auth.FAILURES_PER_MINUTE", 2)
    statuses = [client.get("/v1/models", headers=bearer("wrong")).status_code for _ in range(4)]
    assert statuses == [401, 401, 429, 429]
    lines = [one.getMessage() for one in caplog.records if one.name == "serve.api.auth"]
    assert len(lines) == 3
    assert "wrong key from testclient" in lines[0]
    assert "429" in lines[-1]
    assert client.get("/v1/models", headers=bearer("sk-a")).status_code == 200


def test_a_key_over_its_limit_has_to_wait(client):
    def ask(key: str):
        return client.post("/v1/chat/completions", json={}, headers=bearer(key))

    first, second, third = (ask("sk-b") for _ in range(3))
    assert [first.status_code, second.status_code, third.status_code] == [400, 400, 429]
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert third.json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(third.headers["retry-after"]) <= 30
    assert ask("sk-a").status_code == 400
    assert client.get("/v1/models", headers=bearer("sk-b")).status_code == 200


def test_the_most_that_a_request_may_use_is_taken_before_it_runs(path):
    path.write_text(entry("carol", "sk-c", tokens_per_minute=100))
    key = load_keys(path, None).find("sk-c")
    assert key.admit() == 0
    first = key.reserve(90)
    with pytest.raises(RateLimitError) as caught:
        key.reserve(20)
    assert 1 <= caught.value.retry_after_seconds <= 10
    first.settle(30)
    first.settle(0)
    assert key.tokens.allowance.remaining == 70
    key.reserve(70)
    assert key.admit() == pytest.approx(1 * 60 / 100, rel=0.1)
    with pytest.raises(InvalidRequestError, match="at most 100"):
        key.reserve(101)
