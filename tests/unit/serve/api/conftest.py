"""The application over a tiny random model, in this process."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from serve.api.app import create_app
from serve.backends.local.backend import LocalBackend, LocalModel
from serve.chat.prompt import ChatPrompt
from serve.chat.task import ServedTask
from serve.engine.model import GgufModel
from serve.engine.request import EngineLimits
from serve.engine.thread import EngineThread
from serve.metrics import Metrics

MAX_PARALLEL, MAX_QUEUE, CONTEXT_TOKENS, BATCH_TOKENS = 4, 4, 512, 64


@pytest.fixture(scope="session")
def make_app(tiny_model: GgufModel) -> Callable[..., FastAPI]:
    """An application with models `a` and `b` on one engine."""

    def make(
        context_tokens: int = CONTEXT_TOKENS,
        max_queue: int = MAX_QUEUE,
        defaults: dict[str, float] | None = None,
        tasks: dict[str, ServedTask] | None = None,
        model: GgufModel = tiny_model,
        **settings: Any,
    ) -> FastAPI:
        limits = EngineLimits(
            context_tokens=context_tokens,
            max_parallel=MAX_PARALLEL,
            max_batch_tokens=BATCH_TOKENS,
            max_queue=max_queue,
        )
        local = LocalModel(
            model=model,
            engine=EngineThread(model, limits, threads=1),
            prompt=ChatPrompt(model),
            fingerprint="fp_test",
            created=7,
        )
        metrics = Metrics()
        backends = {
            name: LocalBackend(
                name, local, metrics, defaults=defaults, task=(tasks or {}).get(name)
            )
            for name in ("a", "b")
        }
        return create_app(backends, metrics=metrics, **settings)

    return make


@pytest.fixture(scope="session")
def client(make_app) -> Iterator[TestClient]:
    # An exception that no handler takes would be raised here: that fails a test, as it should.
    with TestClient(make_app()) as client:
        yield client


@pytest.fixture(scope="session")
def chat(client: TestClient) -> Callable[..., dict[str, Any]]:
    def chat(content: str = "Hi", **more: Any) -> dict[str, Any]:
        body = {"model": "a", "messages": [{"role": "user", "content": content}], "max_tokens": 8}
        response = client.post("/v1/chat/completions", json=body | more)
        assert response.status_code == 200, response.text
        return response.json()

    return chat
