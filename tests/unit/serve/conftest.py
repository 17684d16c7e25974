"""Engines over a tiny random llama, stepped by hand, and the application over one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from serve.api.app import create_app
from serve.backends.local.backend import LocalBackend, LocalModel
from serve.chat.prompt import ChatPrompt
from serve.chat.task import ServedTask
from serve.engine.context import DecodeContext
from serve.engine.engine import Engine
from serve.engine.model import GgufModel
from serve.engine.request import EngineLimits, Output, Request
from serve.engine.thread import EngineThread
from serve.metrics import Metrics

MAX_PARALLEL, MAX_QUEUE, CONTEXT_TOKENS, BATCH_TOKENS = 4, 4, 512, 64


@pytest.fixture(scope="session")
def tiny_model(tiny_gguf: Path) -> GgufModel:
    return GgufModel(tiny_gguf)


class Bench:
    """An engine stepped by hand, and what it delivered."""

    def __init__(self, model: GgufModel, **limits: int) -> None:
        self.outputs: dict[Request, list[Output]] = {}
        defaults = {
            "context_tokens": 256,
            "max_parallel": 4,
            "max_batch_tokens": 32,
            "max_queue": 64,
        }
        self.engine = Engine(
            model, EngineLimits(**{**defaults, **limits}), threads=1, deliver=self._deliver
        )

    def _deliver(self, outputs: list[tuple[Request, Output]]) -> None:
        for request, output in outputs:
            self.outputs.setdefault(request, []).append(output)

    def is_done(self, request: Request) -> bool:
        return any(output.is_last for output in self.outputs.get(request, []))

    def finish(self, *requests: Request) -> list[str]:
        for _ in range(2000):
            if all(self.is_done(request) for request in requests):
                return [self.text(request) for request in requests]
            self.engine.step()
        raise AssertionError("the engine does not finish")

    def run(self, *requests: Request) -> list[str]:
        self.engine.submit(requests)
        return self.finish(*requests)

    def text(self, request: Request) -> str:
        return "".join(output.text for output in self.outputs[request])

    def last(self, request: Request) -> Output:
        return self.outputs[request][-1]

    def logprobs(self, request: Request) -> list[tuple[int, float]]:
        return [
            (entry.token_id, entry.logprob)
            for output in self.outputs[request]
            for entry in output.logprobs
        ]


@pytest.fixture
def bench(tiny_model: GgufModel) -> Bench:
    return Bench(tiny_model)


@pytest.fixture(scope="session")
def make_bench(tiny_model: GgufModel):
    return lambda model=tiny_model, **limits: Bench(model, **limits)


@pytest.fixture
def make_context(tiny_model: GgufModel):
    """Return a maker of decoding contexts, which are closed after the test."""
    contexts = []

    def make(**settings: int) -> DecodeContext:
        defaults = {"num_sequences": 1, "context_tokens": 64, "max_batch_tokens": 8, "threads": 1}
        contexts.append(DecodeContext(tiny_model, **{**defaults, **settings}))
        return contexts[-1]

    yield make
    for context in contexts:
        context.close()


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
