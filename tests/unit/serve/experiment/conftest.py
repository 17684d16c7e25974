"""Experiments over models that answer at once or fail as a test sets, and real storages."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from serve.api.app import create_app
from serve.backends.protocol import Caller
from serve.experiment import routes
from serve.experiment.answer_log import store_answer
from serve.experiment.config import CascadeConfig, ExperimentConfig
from serve.experiment.construction import cascades_over, check_names, experiments_over
from serve.experiment.routes import LiveTraffic
from serve.keys import Keyring
from serve.metrics import Metrics
from serve.storage.config import StorageConfig
from serve.storage.storage import opened
from serve.wire.chat import ChatCompletion, ChatCompletionChunk, ChatRequest
from serve.wire.chunks import as_chunks
from serve.wire.models import ModelCard
from tests.fixtures.disks import tiny_disk
from tests.fixtures.waiting import PATIENCE_SECONDS, eventually

__all__ = ["tiny_disk"]
Answers = Callable[[ChatRequest], str]
WORD_LOGPROB = -0.5


class Model:
    """A model whose words are tokens; a test sets its failures and delays."""

    def __init__(self, name: str, says: Answers | None = None) -> None:
        self.name = name
        self.says = says or (lambda request: f"{name}: {request.messages[-1].text}")
        self.error: Exception | None = None
        self.seconds = 0.0
        self.logprob: float | None = WORD_LOGPROB
        self.requests: list[ChatRequest] = []
        self.num_cancelled = 0
        self.is_ready = True

    @property
    def card(self) -> ModelCard:
        return {"id": self.name, "object": "model", "created": 1, "owned_by": "test"}

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def chat(self, request: ChatRequest, _caller: Caller) -> Reply:
        self.requests.append(request)
        return Reply(self, request)

    async def refuse(self, _request: ChatRequest, _caller: Caller) -> Reply:
        """Stands in for `chat` where an error is to come at once."""
        assert self.error is not None
        raise self.error


class Reply:
    numbers = itertools.count()

    def __init__(self, model: Model, request: ChatRequest) -> None:
        self.model, self.request = model, request

    async def complete(self) -> ChatCompletion:
        await asyncio.sleep(self.model.seconds)
        if self.model.error is not None:
            raise self.model.error
        text = self.model.says(self.request)
        words = text.split()
        logprobs = None
        if self.request.logprobs and self.model.logprob is not None:
            tokens = [{"token": word, "logprob": self.model.logprob} for word in words]
            logprobs = {"content": tokens, "refusal": None}
        return {
            "id": f"chatcmpl-own-{next(self.numbers)}",
            "object": "chat.completion",
            "created": 1,
            "model": self.request.model or "",
            "system_fingerprint": "fp",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text, "refusal": None},
                    "logprobs": logprobs,
                    "finish_reason": "stop",
                }
            ],
            "usage": {
                "prompt_tokens": 5,
                "completion_tokens": len(words),
                "total_tokens": 5 + len(words),
            },
        }

    async def chunks(self) -> AsyncIterator[ChatCompletionChunk]:
        for chunk in as_chunks(await self.complete()):
            yield chunk

    def cancel(self) -> None:
        self.model.num_cancelled += 1


class LiveServer:
    """An application over two such models, its client and its storage."""

    def __init__(self, stack: ExitStack, path: Path, **settings: Any) -> None:
        self.student, self.teacher = Model("student"), Model("teacher")
        backends: dict[str, Any] = {"student": self.student, "teacher": self.teacher}
        experiments: dict[str, ExperimentConfig] = settings.get("experiments", {})
        cascades: dict[str, CascadeConfig] = settings.get("cascades", {})
        check_names(cascades, experiments, list(backends))
        self.storage = stack.enter_context(opened(settings.get("storage", StorageConfig()), path))
        backends |= cascades_over(cascades, backends)
        metrics = Metrics()
        live = LiveTraffic(
            self.storage, experiments_over(experiments, backends, self.storage, metrics)
        )
        self.experiments = live.experiments
        keyring: Keyring | None = settings.get("keyring")
        app = create_app(
            {**backends, **self.experiments},
            keyring=keyring,
            routers=[routes.cascades, routes.router],
            observers=[partial(store_answer, self.storage)],
            watcher=settings.get("watcher"),
            metrics=metrics,
            find_more=live.dealer.find,
        )
        app.state.live = live
        self.client = stack.enter_context(TestClient(app, raise_server_exceptions=False))

    def ask(self, content: str = "Hi", model: str = "assistant", **more: Any) -> Any:
        body = {"model": model, "messages": [{"role": "user", "content": content}]} | more
        return self.client.post("/v1/chat/completions", json=body)

    def view(self, name: str = "assistant") -> dict[str, Any]:
        response = self.client.get(f"/v1/experiments/{name}")
        assert response.status_code == 200, response.text
        return response.json()

    def shadows(self, number: int, name: str = "assistant") -> dict[str, Any]:
        """Wait for `number` shadow answers, failed ones included."""

        def shadow() -> dict[str, Any]:
            return self.view(name)["shadow"]

        assert eventually(lambda: shadow()["pairs"] + shadow()["failed"] >= number), shadow()
        return shadow()


def split(student: float = 1, teacher: float = 1, **more: Any) -> ExperimentConfig:
    variants = {"student": {"weight": student}, "teacher": {"weight": teacher}}
    return ExperimentConfig.model_validate({"variants": variants, **more})


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a busy machine take longer to commit than a client would wait."""
    monkeypatch.setattr("serve.storage.storage.COMMIT_PATIENCE_SECONDS", PATIENCE_SECONDS)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Callable[..., LiveServer]]:
    """Return a function that serves an experiment called `assistant`, or with another name."""
    with ExitStack() as stack:

        def serve(experiment: ExperimentConfig | None = None, **settings: Any) -> LiveServer:
            experiments = {"assistant": experiment} if experiment else {}
            path = tmp_path / "traffic.sqlite"
            return LiveServer(stack, path, **{"experiments": experiments, **settings})

        yield serve


@pytest.fixture
def no_shadow() -> dict[str, Any]:
    return {"shadow": {"share": 0.0}}
