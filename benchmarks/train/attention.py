"""Attention with PyTorch's fused kernel and multiplied out: `python benchmarks/train/attention.py`.

One training step of a model of SmolLM2-135M's shape, random weights, batches of 16 rows of one
length, in bfloat16 and float32. Rounds of both kinds alternate. A ratio above 1: the fused kernel
takes longer. `train.trainer.SHORT` is read off from it.
"""

from __future__ import annotations

import statistics
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

LENGTHS = (48, 72, 128, 160, 256)
NUM_ROWS = 16
NUM_ROUNDS = 5


def step_seconds(model: LlamaForCausalLM, kind: str, length: int, dtype: torch.dtype) -> float:
    """Return the time of one forward and backward pass."""
    model.set_attn_implementation(kind)
    token_ids = torch.randint(0, model.config.vocab_size, (NUM_ROWS, length))
    mask = torch.ones_like(token_ids)
    mask[::2, -5:] = 0
    started = time.perf_counter()
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        hidden = model.model(input_ids=token_ids, attention_mask=mask).last_hidden_state
    hidden.float().sum().backward()
    model.zero_grad()
    return time.perf_counter() - started


def main() -> None:
    """Measure and print a table."""
    shape = LlamaConfig(
        vocab_size=1024,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
    )
    model = LlamaForCausalLM(shape)
    print("| tokens | bfloat16, fused / multiplied out | float32, fused / multiplied out |")
    print("|--:|--:|--:|")
    for length in LENGTHS:
        cells = []
        for dtype in (torch.bfloat16, torch.float32):
            for kind in ("sdpa", "eager"):
                step_seconds(model, kind, length, dtype)
            ratios = [
                step_seconds(model, "sdpa", length, dtype)
                / step_seconds(model, "eager", length, dtype)
                for _ in range(NUM_ROUNDS)
            ]
            median = statistics.median(ratios)
            cells.append(f"{median:.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        print(f"| {length} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
