"""Phoenix, which shows the traces of others, shows those of potstill's server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from potstill.processes import end_with_parent, free_port
from tests.conformance.conftest import CACHE, run
from tests.fixtures.served import Server, run_of_gguf
from tests.fixtures.waiting import eventually

PHOENIX = "arize-phoenix==20.26.1"


@pytest.fixture(scope="module")
def phoenix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Phoenix that runs."""
    directory = CACHE / PHOENIX
    if not (directory / "ready").is_file():
        run(sys.executable, "-m", "venv", "--clear", directory)
        run(directory / "bin" / "python", "-m", "pip", "install", "--quiet", PHOENIX)
        (directory / "ready").touch()
    port, scratch = free_port(), tmp_path_factory.mktemp("phoenix")
    settings = {
        "PHOENIX_PORT": str(port),
        "PHOENIX_GRPC_PORT": str(free_port()),
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_WORKING_DIR": str(scratch),
        "PHOENIX_TELEMETRY_ENABLED": "false",
    }
    with Path(scratch / "log").open("wb") as log:
        process = subprocess.Popen(
            [directory / "bin" / "phoenix", "serve"],
            env=os.environ | settings,
            stdout=log,
            stderr=log,
            preexec_fn=end_with_parent(),
        )
    url = f"http://127.0.0.1:{port}"
    assert eventually(lambda: answers(url), seconds=600), (scratch / "log").read_text()
    yield url
    process.kill()
    process.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").is_success
    except httpx.TransportError:
        return False


def test_a_chat_is_shown_with_its_messages_and_tokens(phoenix, tiny_gguf, tmp_path):
    run_directory = run_of_gguf(tmp_path / "run", tiny_gguf)
    server = Server(run_directory, tmp_path / "log", otlp_endpoint=phoenix, otlp_content=True)
    messages = [{"role": "user", "content": "Where is my card?"}]
    said = server.client.chat.completions.create(model="student", messages=messages, max_tokens=8)
    server.stop()

    def spans() -> list[dict]:
        return httpx.get(f"{phoenix}/v1/projects/default/spans").json().get("data", [])

    assert eventually(spans)
    (span,) = spans()
    shown = span["attributes"]
    assert (span["name"], span["span_kind"]) == ("chat student", "LLM")
    assert shown["llm.input_messages.0.message.content"] == "Where is my card?"
    assert shown["llm.output_messages.0.message.content"] == said.choices[0].message.content
    assert shown["llm.token_count.completion"] == said.usage.completion_tokens == 8
