"""Time to the first token of a chat's last turn: `python benchmarks/serving/turns.py lfm2`.

A chat of eight turns, each with the server's own answer in its history, over HTTP on an idle
server. Warm: the last turn, after the others. Cold: the same messages behind a system prompt that
nobody has sent. Servers take turns in every round; their ratio is that of the same round.

The model has random weights in the shape of a small one of its family, since only time is measured:
LFM2-350M (convolutions) or Gemma 3 270M (sliding windows), without their large vocabularies.

Usage: turns.py FAMILY [--rounds N] [--threads N] [--servers NAME ...]
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.serving._load import ask
from benchmarks.serving._servers import COMMANDS, MODEL, NUM_THREADS, Setting, all_running
from benchmarks.serving.throughput import paired_ratio
from quantize.conversion.convert import write_base_gguf
from tests.fixtures.tiny_checkpoints import save_tiny_model, save_tiny_tokenizer

NUM_TURNS = 8
WORDS_PER_TURN = 20
CONTEXT_TOKENS = 4096
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "lfm2": (
        "llama-bpe",
        {
            "hidden_size": 1024,
            "intermediate_size": 4608,
            "block_auto_adjust_ff_dim": False,
            "num_hidden_layers": 16,
            "layer_types": [
                "full_attention" if layer in (2, 5, 8, 10, 12, 14) else "conv"
                for layer in range(16)
            ],
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 64,
        },
    ),
    "gemma3_text": (
        "gemma",
        {
            "vocab_size": 1000,
            "hidden_size": 640,
            "intermediate_size": 2048,
            "num_hidden_layers": 18,
            "layer_types": [
                "full_attention" if layer % 6 == 5 else "sliding_attention" for layer in range(18)
            ],
            "sliding_window": 512,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 256,
        },
    ),
}
"""Kind of tokenizer and settings of transformers, by model type."""


def made(family: str, directory: Path) -> Path:
    """Return a GGUF file of a random model."""
    tokens, shape = SHAPES[family]
    checkpoint_dir = directory / "checkpoint"
    common = {"max_position_embeddings": CONTEXT_TOKENS, "initializer_range": 0.02}
    save_tiny_model(checkpoint_dir, family, **common, **shape)
    save_tiny_tokenizer(tokens, checkpoint_dir)
    path = directory / f"{family}.gguf"
    write_base_gguf(checkpoint_dir, path, "F16", family)
    return path


def body(messages: list[dict[str, str]]) -> dict[str, Any]:
    """Return the request for the next answer."""
    return {"model": MODEL, "messages": messages, "temperature": 0.0, "max_tokens": 8}


async def chat(base_url: str, number: int) -> tuple[float, float]:
    """Return the milliseconds to the first token of the last turn: warm, and cold."""
    messages = [{"role": "system", "content": f"You are assistant {number}."}]
    for turn in range(NUM_TURNS):
        question = " ".join(f"word{number * turn + word}" for word in range(WORDS_PER_TURN))
        messages.append({"role": "user", "content": question})
        warm = await ask(base_url, body(messages))
        messages.append({"role": "assistant", "content": warm.text})
    other = [{"role": "system", "content": f"{number} times."}, *messages[1:-1]]
    cold = await ask(base_url, body(other))
    return 1000 * warm.first_token_seconds, 1000 * cold.first_token_seconds


def main() -> None:
    """Chat in turns and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", nargs="?", default="lfm2", choices=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=NUM_THREADS)
    parser.add_argument(
        "--servers", nargs="+", default=["potstill", "llama-server"], choices=list(COMMANDS)
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        setting = Setting(
            made(given.family, Path(name)),
            Path(name),
            num_parallel=2,
            context_tokens=CONTEXT_TOKENS,
            threads=given.threads,
        )
        found: dict[str, list[tuple[float, float]]] = {}
        with all_running(given.servers, setting) as servers:
            for number in range(100, 101 + given.rounds):
                for server in servers:
                    with server.turn():
                        times = asyncio.run(chat(server.base_url, number))
                    found.setdefault(server.name, []).append(times)
    print(f"{given.family}, {setting.threads} threads, turn {NUM_TURNS}")
    first, *_ = found
    for name, rounds in found.items():
        warm, cold = (median(one[index] for one in rounds[1:]) for index in (0, 1))
        pairs = [(its[0], ours[0]) for its, ours in zip(rounds[1:], found[first][1:], strict=True)]
        print(
            f"{name}: {warm:.0f} ms warm, {cold:.0f} ms cold: {cold / warm:.1f}x; warm takes"
            f" {paired_ratio(pairs)} of {first}'s"
        )


if __name__ == "__main__":
    main()
