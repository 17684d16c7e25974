"""Keys: names, limits, and that they are nowhere in clear text."""

import hashlib

import pytest
from starlette.testclient import TestClient

from potstill.errors import ConfigError
from serve.api.app import create_app
from serve.errors import InvalidRequestError, RateLimitError
from serve.keys import load_keys
from serve.rate_limits import Bucket


def entry(name: str, key: str, **limits: int) -> str:
    digest = hashlib.sha256(key.encode()).hexdigest()
    lines = [f"[keys.{name}]", f'sha256 = "{digest}"']
    return "\n".join(lines + [f"{limit} = {value}" for limit, value in limits.items()]) + "\n"


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
