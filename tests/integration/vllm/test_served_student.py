"""`serve.engine = "vllm"`: the student's checkpoint under vLLM, behind potstill's API and keys."""

from __future__ import annotations

import json
import time
from pathlib import Path

import httpx2
import psutil
import pytest
from openai import AuthenticationError

from serve.playground.routes import OPEN_PATHS
from tests.fixtures.facts import student_facts
from tests.fixtures.served import KEY, Server, run_of_gguf

from .conftest import CONTEXT_TOKENS, KV_CACHE_BYTES, READY_SECONDS

OPTIONS = ("--dtype=float32", f"--kv-cache-memory-bytes={KV_CACHE_BYTES}", "--enforce-eager",
           "--no-enable-chunked-prefill")  # fmt: skip
QUESTION = [{"role": "user", "content": "Name three rivers."}]
GREEDY = {"messages": QUESTION, "max_tokens": 24, "temperature": 0.0}
HEADERS = {"Authorization": f"Bearer {KEY}"}
USERS = [f"user-{number}" for number in range(8)]


@pytest.fixture(scope="module")
def record_path(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("record") / "record.jsonl"


@pytest.fixture(scope="module")
def server(teacher_dir, tiny_gguf, record_path, tmp_path_factory):
    """A run whose student is SmolLM2, its file another one: what answers is the checkpoint.

    Its teacher is a file, and both are `assistant`.
    """
    directory = tmp_path_factory.mktemp("served")
    run_directory = run_of_gguf(directory / "run", tiny_gguf)
    session = run_directory.open_stage("student", {})
    for path in teacher_dir.iterdir():
        (session.dir / path.name).symlink_to(path)
    session.finish(facts=student_facts())
    variants = {"student": {"weight": 1}, "teacher": {"weight": 1}}
    started = Server(
        run_directory,
        directory / "log",
        engine="vllm",
        vllm={"options": OPTIONS},
        models=["student"],
        paths={"teacher": str(tiny_gguf)},
        experiments={"assistant": {"variants": variants, "salt": "salt", "judge": "votes"}},
        record_path=str(record_path),
        context_tokens=CONTEXT_TOKENS,
        max_parallel=4,
    )
    wait_until_ready(started)
    yield started
    if started.process.poll() is None:
        started.stop()


def wait_until_ready(server):
    deadline = time.monotonic() + READY_SECONDS
    while httpx2.get(f"{server.root_url}/readyz").status_code != 200:
        assert time.monotonic() < deadline, server.log_path.read_text()
        assert server.process.poll() is None, server.log_path.read_text()
        time.sleep(0.5)


def streamed(server, **changes) -> str:
    stream = server.client.chat.completions.create(**GREEDY | changes, stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def test_vllm_answers_for_the_student(server):
    answer = server.client.chat.completions.create(model="student", **GREEDY)
    assert answer.model == "student"
    assert answer.usage.completion_tokens > 4
    assert streamed(server, model="student") == answer.choices[0].message.content
    with pytest.raises(AuthenticationError):
        server.client.with_options(api_key="wrong").models.list()


def test_an_experiment_divides_users_between_vllm_and_a_file(server):
    alone = {name: streamed(server, model=name) for name in ("student", "teacher")}
    assert alone["student"] != alone["teacher"]
    create = server.client.chat.completions.with_raw_response.create
    variants = {}
    for user in USERS:
        raw = create(model="assistant", user=user, **GREEDY)
        variants[user] = raw.headers["x-potstill-variant"]
        assert raw.parse().choices[0].message.content == alone[variants[user]]
        assert streamed(server, model="assistant", user=user) == alone[variants[user]]
    assert set(variants.values()) == {"student", "teacher"}
    # The student's own conversations are those that are judged, streams too.
    num_pairs = 2 * list(variants.values()).count("student")
    url = f"{server.url}/experiments/assistant"
    deadline = time.monotonic() + 120
    while (pairs := found(f"{url}/pairs?judge=nobody")) != num_pairs:
        assert time.monotonic() < deadline, pairs
        time.sleep(0.2)
    results = httpx2.get(url, headers=HEADERS).json()
    assert results["state"] == "running"


def found(url: str) -> int:
    return len(httpx2.get(url, headers=HEADERS).json()["data"])


def test_the_playground_shows_vllm_and_takes_a_blind_vote_on_it(server):
    for path in OPEN_PATHS:
        assert httpx2.get(f"{server.root_url}{path}").status_code == 200
    names = {one.id for one in server.client.models.list()}
    assert names == {"student", "teacher", "assistant"}
    with httpx2.Client(base_url=server.url, headers=HEADERS, timeout=120) as client:
        dealt = client.post("/deals", json={"models": ["student", "teacher"]}).json()["models"]
        answers = [
            client.post("/chat/completions", json={"model": name, "messages": QUESTION}).json()
            for name in dealt
        ]
        ids = [one["id"] for one in answers]
        vote = client.post("/votes", json={"response_ids": ids, "preference": "a", "blind": True})
    assert vote.json() | {"settings": []} == {
        "stored": True,
        "models": vote.json()["models"],
        "counts": True,
        "settings": [],
    }
    assert set(vote.json()["models"]) == {"student", "teacher"}


def test_answers_of_vllm_are_recorded_as_those_of_files(server, record_path):
    answer = server.client.chat.completions.create(model="student", **GREEDY)
    rows = [json.loads(line) for line in record_path.read_text().splitlines()]
    assert rows[-1]["response"]["id"] == answer.id
    assert rows[-1]["request"]["messages"] == QUESTION
    assert {row["model"] for row in rows} >= {"student", "teacher"}


def test_vllm_ends_with_the_server(server):
    children = psutil.Process(server.process.pid).children(recursive=True)
    assert any("vllm" in " ".join(child.cmdline()) for child in children)
    assert server.stop() == (0, "gguf\n")
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
