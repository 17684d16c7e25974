"""vLLM in a child process: started, watched, started again. A small server stands in for it."""

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from potstill.errors import BackendUnavailableError, ConfigError
from serve.backends import vllm
from serve.backends.config import VllmConfig
from serve.backends.protocol import Caller
from serve.backends.vllm import VllmBackend, server_arguments, without_secrets
from serve.metrics import Metrics
from serve.wire.chat import ChatRequest
from tests.fixtures.waiting import PATIENCE_SECONDS

STAND_IN = f"""#!{sys.executable}
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
assert sys.argv[1:3] == ["-m", "{vllm.MODULE}"]
assert "POTSTILL_API_KEY" not in os.environ
assert "OPENAI_API_KEY" not in os.environ
options = dict(one.removeprefix("--").split("=", 1) for one in sys.argv[3:])
class Handler(BaseHTTPRequestHandler):
    def answer(self, content):
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.answer({{}})
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.headers["Authorization"] == "Bearer " + os.environ["VLLM_API_KEY"]
        text = json.dumps([os.getpid(), body["model"], options["model"]])
        choice = {{"index": 0, "message": {{"role": "assistant", "content": text}},
                  "finish_reason": "stop"}}
        self.answer({{"id": "1", "choices": [choice], "usage": {{"total_tokens": 3}}}})
    def log_message(self, *_):
        pass
HTTPServer(("127.0.0.1", int(options["port"])), Handler).serve_forever()
"""
QUESTION = {"messages": [{"role": "user", "content": "Who are you?"}]}


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Return a function: a context with a started backend, whose Python is the stand-in."""
    monkeypatch.setattr(vllm, "POLL_SECONDS", 0.05)
    monkeypatch.setenv("POTSTILL_API_KEY", "a key of this server")
    monkeypatch.setenv("OPENAI_API_KEY", "a key of an upstream server")
    stand_in = tmp_path / "python"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)

    @asynccontextmanager
    async def started(python=stand_in):
        backend = VllmBackend(
            "student",
            Path("/runs/mine/student"),
            VllmConfig(python=python),
            Metrics(),
            context_tokens=0,
            max_parallel=4,
            sampling={},
        )
        await backend.start()
        try:
            yield backend
        finally:
            await backend.stop()

    return started


async def until(condition):
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.02)


async def asked(backend):
    reply = await backend.chat(ChatRequest.model_validate(QUESTION), Caller())
    completion = await reply.complete()
    assert completion["model"] == "student"
    pid, *rest = json.loads(completion["choices"][0]["message"]["content"])
    assert rest == ["student", "/runs/mine/student"]
    return pid


def test_a_child_answers_is_started_again_and_ends_with_the_server(served):
    async def scenario():
        async with served() as backend:
            await until(lambda: backend.is_ready)
            first = await asked(backend)
            os.kill(first, signal.SIGKILL)
            await until(lambda: not backend.is_ready)
            await until(lambda: backend.is_ready)
            second = await asked(backend)
            assert second != first
            assert not backend.has_failed
        assert not backend.is_ready
        with pytest.raises(ProcessLookupError):
            os.kill(second, 0)

    asyncio.run(scenario())


@pytest.mark.slow
def test_a_child_that_ends_again_and_again_is_given_up(served, caplog):
    async def scenario():
        async with served(Path("/bin/false")) as backend:
            await until(lambda: backend.has_failed)
            with pytest.raises(BackendUnavailableError):
                await asked(backend)

    asyncio.run(scenario())
    assert "ended with code 1, and is not started again" in caplog.text


def test_without_vllm_the_engine_is_refused(monkeypatch):
    monkeypatch.setattr(vllm, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="vLLM is not installed"):
        VllmBackend(
            "student",
            Path("student"),
            VllmConfig(),
            Metrics(),
            context_tokens=2048,
            max_parallel=4,
            sampling={},
        )


def test_the_child_gets_no_keys_of_others():
    given = {
        "PATH": "/bin", "CUDA_VISIBLE_DEVICES": "0", "VLLM_CPU_KVCACHE_SPACE": "4", "HF_HOME": "/h",
        "TOKENIZERS_PARALLELISM": "false", "LD_PRELOAD": "x.so", "LC_ALL": "C",
    }  # fmt: skip
    secrets = ("HF_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "DATABASE_URL",
               "OTEL_EXPORTER_OTLP_HEADERS", "POTSTILL_API_KEY", "VLLM_API_KEY")  # fmt: skip
    assert without_secrets(given | dict.fromkeys(secrets, "secret")) == given


def test_options_of_the_configuration_come_last():
    arguments = server_arguments(
        "student",
        Path("/s"),
        VllmConfig(options=("--max-num-seqs=99",)),
        port=1,
        context_tokens=512,
        max_parallel=4,
        sampling={"temperature": 0.5},
    )
    assert arguments[-1] == "--max-num-seqs=99"
    assert "--max-model-len=512" in arguments
    assert '--override-generation-config={"temperature": 0.5}' in arguments
