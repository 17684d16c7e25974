"""A training step on a GPU: distillation beside SFT, tokens per second, MFU.

A random Qwen2 on random conversations, with the loss, the head and the packing of `train`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu._loss import synchronize
from benchmarks.gpu._table import Row
from potstill.cards import Cards, MachineConfig
from train.config import KDConfig
from train.heads import labeled_hidden_states, output_head
from train.losses import mix_of
from train.losses.chunked import Targets, distillation_loss

LARGEST_TIME, LARGEST_MEMORY, LEAST_MFU = 1.10, 1.05, 0.45
PEAK_SIZE, PEAK_ROUNDS = 8192, 5


@dataclass(frozen=True)
class Model:
    """The sizes of a random Qwen2, and of its batches."""

    name: str
    width: int
    layers: int
    neurons: int
    heads: int
    kv_heads: int
    vocab_size: int = 151_936
    rows: int = 8
    length: int = 2048
    conversation: int = 512
    """Tokens of a conversation; several are packed into a row."""


HALF_BILLION = Model("0.5B", 896, 24, 4864, 14, 2)
ONE_BILLION = Model("1.5B", 1536, 28, 8960, 12, 2, rows=4)


def random_model(sizes: Model, device: str) -> Any:  # noqa: ANN401  (a transformers model)
    """Return a model with random weights in float32, all of them trained."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=sizes.vocab_size,
        hidden_size=sizes.width,
        num_hidden_layers=sizes.layers,
        intermediate_size=sizes.neurons,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        tie_word_embeddings=True,
    )
    with torch.device(device):
        return Qwen2ForCausalLM(config).train()


def packed_batch(sizes: Model, device: str) -> dict[str, Tensor]:
    """Return rows of several conversations each, their first quarter prompts."""
    ids_BL = torch.randint(sizes.vocab_size, (sizes.rows, sizes.length), device=device)
    positions_L = torch.arange(sizes.length, device=device) % sizes.conversation
    labels_BL = ids_BL.masked_fill((positions_L < sizes.conversation // 4)[None], -100)
    return {
        "input_ids": ids_BL,
        "position_ids": positions_L.repeat(sizes.rows, 1),
        "labels": labels_BL,
    }


def random_targets(num_tokens: int, vocab_size: int, top_k: int, device: str) -> Targets:
    """Return a teacher's signal; stored ids differ within a row."""
    first_T = torch.randint(vocab_size - top_k, (num_tokens, 1), device=device)
    ids_TK = first_T + torch.arange(top_k, device=device)
    logprobs_TK = torch.randn(num_tokens, 2 * top_k, device=device).log_softmax(-1)[:, :top_k]
    return Targets(ids_TK[:, 0], logprobs_TK[:, 0], ids_TK, logprobs_TK)


def steps(device: str, sizes: Model, top_k: int = 64, rounds: int = 6) -> Iterator[Row]:
    """Measure a step of distillation and of SFT, alone and with what saves memory or time."""
    model = random_model(sizes, device)
    batch = packed_batch(sizes, device)
    num_labeled = int((batch["labels"][:, 1:] != -100).sum())
    targets = random_targets(num_labeled, sizes.vocab_size, top_k, device)
    name = f"step of {sizes.name}, packed"
    measured = {
        weight: _step(model, batch, targets, weight, device, rounds) for weight in (0.0, 0.9)
    }
    time_ratio, memory_ratio = (measured[0.9][n] / (measured[0.0][n] or 1) for n in (0, 1))
    yield _ratio(f"{name}: time, distillation / SFT", time_ratio, LARGEST_TIME)
    if device != "cpu":
        yield _ratio(f"{name}: memory, distillation / SFT", memory_ratio, LARGEST_MEMORY)
    seconds, num_bytes = measured[0.9]
    yield Row(f"{name}: memory", f"{num_bytes / 1e9:.1f} GB")
    yield Row(f"{name}: speed", f"{batch['input_ids'].numel() / seconds:,.0f} tokens/s")
    flops = step_flops(model, sizes, num_labeled) / seconds
    yield from mfu_rows(name, flops, device, LEAST_MFU if sizes is ONE_BILLION else None)
    model.gradient_checkpointing_enable()
    seconds, num_bytes = _step(model, batch, targets, 0.9, device, rounds)
    yield Row(
        f"{name}: gradient checkpointing", f"{seconds * 1e3:,.0f} ms {num_bytes / 1e9:.1f} GB"
    )
    if device == "cpu":  # It would take minutes.
        return
    model.gradient_checkpointing_disable()
    compile_layers(model)
    seconds, num_bytes = _step(model, batch, targets, 0.9, device, rounds)
    yield Row(f"{name}: compiled layers", f"{seconds * 1e3:,.0f} ms {num_bytes / 1e9:.1f} GB")


def mfu_rows(name: str, flops: float, device: str, least: float | None = None) -> Iterator[Row]:
    """Yield operations per second as shares of the measured peak and, if known, the datasheet's.

    Args:
        least: The target for the last one.
    """
    peaks = {"measured peak": peak_flops(device)}
    if (cards := Cards.of(MachineConfig())) is not None:
        peaks[f"datasheet of {cards.name}"] = cards.card.bfloat16_flops
    *others, last = ((f"{name}: MFU of {peak}", flops / most) for peak, most in peaks.items())
    for title, mfu in others:
        yield Row(title, f"{mfu:.0%}")
    title, mfu = last
    if least is None:
        yield Row(title, f"{mfu:.0%}")
    else:
        yield Row(title, f"{mfu:.0%}", f">= {least:.0%}", mfu >= least)


def compile_layers(model: Any) -> None:  # noqa: ANN401  (a transformers model)
    """Compile each layer, as train.trainer does, which needs TRL."""
    for layer in model.base_model.layers:
        layer.compile(dynamic=True)


def _ratio(name: str, ratio: float, largest: float) -> Row:
    return Row(name, f"{ratio:.3f}", f"<= {largest}", ratio <= largest)


def _step(
    model: Any,  # noqa: ANN401
    batch: dict[str, Tensor],
    targets: Targets,
    weight: float,
    device: str,
    rounds: int,
) -> tuple[float, float]:
    """Return the median seconds of a step, and the peak of memory."""
    mix = mix_of(KDConfig(weight=weight))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    seconds = []
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(2 + rounds):
        synchronize(device)
        started = time.perf_counter()
        with torch.autocast(device, torch.bfloat16):
            hidden_TD = labeled_hidden_states(model, batch)
            sums = distillation_loss(hidden_TD, output_head(model), targets, mix)
        (sums.total / len(hidden_TD)).backward()
        optimizer.step()
        optimizer.zero_grad()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    if not torch.isfinite(sums.total):
        raise ValueError("the loss is not a number")
    return median(seconds[2:]), 0 if device == "cpu" else torch.cuda.max_memory_allocated()


def step_flops(model: Any, sizes: Model, num_labeled: int) -> float:  # noqa: ANN401
    """Return the operations of a step without recomputation (Chowdhery et al. 2022, appendix B)."""
    layers = sum(one.numel() for one in model.base_model.layers.parameters() if one.ndim == 2)
    num_tokens = sizes.rows * sizes.length
    attention = 6 * num_tokens * sizes.conversation * sizes.width * sizes.layers
    return 6.0 * (layers * num_tokens + sizes.vocab_size * sizes.width * num_labeled) + attention


def peak_flops(device: str) -> float:
    """Return the operations per second of products of large square matrices in bfloat16."""
    size = PEAK_SIZE if device != "cpu" else 512
    left, right = torch.randn(2, size, size, device=device, dtype=torch.bfloat16)
    seconds = []
    for _ in range(1 + PEAK_ROUNDS):
        synchronize(device)
        started = time.perf_counter()
        torch.mm(left, right)
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / median(seconds[1:])
