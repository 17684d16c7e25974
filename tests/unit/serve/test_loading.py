"""Which engines are made of which files; drafts and adapters."""

import asyncio
from pathlib import Path

import gguf
import numpy as np
import pytest

from potstill.errors import ArtifactError, ConfigError
from potstill.processor import memory_bytes
from serve.backends.protocol import Caller
from serve.config import ServeConfig
from serve.loading import load_models
from serve.metrics import Metrics
from serve.wire.chat import ChatRequest
from tests.fixtures.tiny_gguf import CONTEXT_TOKENS, WIDTH

RANK = 4


def write_adapter(path: Path, width: int = WIDTH) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", RANK)
    rng = np.random.default_rng(0)
    for side, shape in (("a", (RANK, width)), ("b", (width, RANK))):
        weights = rng.normal(0, 1, shape).astype(np.float32)
        writer.add_tensor(f"blk.0.attn_q.weight.lora_{side}", weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def adapter_path(tmp_path: Path) -> Path:
    path = tmp_path / "adapter.gguf"
    write_adapter(path)
    return path


@pytest.fixture
def load(tiny_gguf):
    def load(names: tuple[str, ...] = ("a",), **settings):
        small = {"context_tokens": 128, "max_parallel": 2, "max_batch_tokens": 16, "threads": 1}
        config = ServeConfig(**small, **settings)
        return load_models(config, dict.fromkeys(names, tiny_gguf), Metrics())

    return load


def answers(backends, *asked: tuple[str, str]) -> list[str]:
    """Ask models questions, all at once."""

    async def ask(name: str, question: str) -> str:
        messages = [{"role": "user", "content": question}]
        request = ChatRequest(model=name, messages=messages, max_tokens=24, temperature=0)
        reply = await backends[name].chat(request, Caller())
        return (await reply.complete())["choices"][0]["message"]["content"]

    async def ask_all() -> list[str]:
        for backend in backends.values():
            await backend.start()
        said = await asyncio.gather(*(ask(*one) for one in asked))
        for backend in backends.values():
            await backend.stop()
        return said

    return asyncio.run(ask_all())


def test_names_of_one_file_share_an_engine(load):
    backends = load(("a", "b"))
    assert backends["a"].stats() is not None
    assert backends["a"].local is backends["b"].local


def test_a_draft_changes_no_answer(load):
    backends = load(("a", "b"), drafts={"b": "a"})
    assert backends["a"].local is not backends["b"].local
    assert backends["a"].model is backends["b"].model
    assert backends["a"].card["system_fingerprint"] == backends["b"].card["system_fingerprint"]
    alone, drafted = answers(backends, ("a", "Hi"), ("b", "Hi"))
    assert alone == drafted
    assert backends["a"].stats().num_drafted_tokens == 0
    assert backends["b"].stats().num_accepted_tokens > 0


def test_an_adapter_changes_its_own_answers_only(load, adapter_path):
    def adapter(scale: float) -> dict:
        return {"base": "a", "path": adapter_path, "scale": scale}

    adapters = {"off": adapter(0.0), "on": adapter(1.0)}
    # With adapters nothing is reproducible: then all have the same format of keys and values.
    fast = load(adapters=adapters, reproducible=False)
    base, off, on = answers(fast, ("a", "Hi"), ("off", "Hi"), ("on", "Hi"))
    assert base == off == answers(load(reproducible=False), ("a", "Hi"))[0]
    assert on != base
    backends = load(adapters=adapters)
    assert backends["on"].model.pointer is backends["a"].model.pointer
    assert backends["a"].card["reproducible"]
    assert not backends["on"].card["reproducible"]
    fingerprints = {backend.card["system_fingerprint"] for backend in backends.values()}
    assert len(fingerprints) == 3


def test_missing_and_incompatible_files_are_refused(load, tmp_path, adapter_path):
    with pytest.raises(ConfigError, match=r"no model 'pupil'(.|\n)*serve.drafts"):
        load(drafts={"a": "pupil"})
    with pytest.raises(ConfigError, match=r"no model 'pupil'(.|\n)*serve.drafts"):
        load(drafts={"pupil": "a"})
    with pytest.raises(ConfigError, match=r"serve.adapters.x.base"):
        load(adapters={"x": {"base": "pupil", "path": adapter_path}})
    with pytest.raises(ArtifactError, match=r"cannot be loaded(.|\n)*no such file"):
        load(adapters={"x": {"base": "a", "path": tmp_path / "none.gguf"}})
    write_adapter(tmp_path / "wide.gguf", width=2 * WIDTH)
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        load(adapters={"x": {"base": "a", "path": tmp_path / "wide.gguf"}})


def test_a_file_that_is_missing_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="does not exist"):
        load_models(ServeConfig(), {"mine": tmp_path / "none.gguf"}, Metrics())


def test_a_models_own_context_is_served_as_far_as_memory_holds_it(tiny_gguf, monkeypatch):
    def context_tokens(**settings) -> int:
        config = ServeConfig(max_parallel=2, max_batch_tokens=16, threads=1, **settings)
        (backend,) = load_models(config, {"a": tiny_gguf}, Metrics()).values()
        return backend.context_tokens

    assert context_tokens(context_tokens=0) == CONTEXT_TOKENS
    assert context_tokens(context_tokens=128) == 128
    monkeypatch.setattr("serve.loading.LEAST_OWN", 16)
    monkeypatch.setattr("serve.loading.MEMORY_SHARE", memory_bytes() // (2 * 256 * 100))
    assert context_tokens(context_tokens=0) == pytest.approx(100, abs=1)
