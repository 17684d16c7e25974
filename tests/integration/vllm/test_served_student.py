"""`serve.engine = "vllm"`: the student's checkpoint under vLLM, behind potstill's API and keys."""

from __future__ import annotations

import time

import httpx2
import psutil
import pytest
from openai import AuthenticationError

from tests.fixtures.facts import student_facts
from tests.fixtures.served import Server, run_of_gguf

from .conftest import CONTEXT_TOKENS, KV_CACHE_BYTES, READY_SECONDS

OPTIONS = ("--dtype=float32", f"--kv-cache-memory-bytes={KV_CACHE_BYTES}", "--enforce-eager",
           "--no-enable-chunked-prefill")  # fmt: skip
QUESTION = [{"role": "user", "content": "Name three rivers."}]


@pytest.fixture
def server(teacher_dir, tiny_gguf, tmp_path):
    """A run whose student is SmolLM2, its file another one: what answers is the checkpoint."""
    run_directory = run_of_gguf(tmp_path / "run", tiny_gguf)
    session = run_directory.open_stage("student", {})
    for path in teacher_dir.iterdir():
        (session.dir / path.name).symlink_to(path)
    session.finish(facts=student_facts())
    started = Server(
        run_directory,
        tmp_path / "log",
        engine="vllm",
        vllm={"options": OPTIONS},
        models=["student"],
        context_tokens=CONTEXT_TOKENS,
        max_parallel=4,
    )
    yield started
    if started.process.poll() is None:
        started.stop()


def wait_until_ready(server):
    deadline = time.monotonic() + READY_SECONDS
    while httpx2.get(f"{server.root_url}/readyz").status_code != 200:
        assert time.monotonic() < deadline, server.log_path.read_text()
        assert server.process.poll() is None, server.log_path.read_text()
        time.sleep(0.5)


def test_vllm_answers_for_the_student_and_ends_with_the_server(server):
    wait_until_ready(server)
    answer = server.client.chat.completions.create(
        model="student", messages=QUESTION, max_tokens=24, temperature=0.0
    )
    assert answer.model == "student"
    assert answer.usage.completion_tokens > 4
    stream = server.client.chat.completions.create(
        model="student", messages=QUESTION, max_tokens=24, temperature=0.0, stream=True
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(pieces) == answer.choices[0].message.content
    with pytest.raises(AuthenticationError):
        server.client.with_options(api_key="wrong").models.list()
    children = psutil.Process(server.process.pid).children(recursive=True)
    assert any("vllm" in " ".join(child.cmdline()) for child in children)
    assert server.stop() == (0, "gguf\n")
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
