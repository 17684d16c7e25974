"""Training by the trainer on a GPU: rows of a made cache, packed, with all that is around a step.

Shapes: T labeled tokens, K stored entries.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, TrainerCallback

from benchmarks.gpu._loss import synchronize
from benchmarks.gpu._step import Model, mfu_rows, random_model, step_flops
from benchmarks.gpu._table import Row
from potstill.distributions import TokenDistributions, encode
from train.arguments import offline_arguments
from train.config import TrainConfig
from train.data.batches import Collator
from train.data.packing import pack_split
from train.losses import mix_of
from train.trainer import DistillationTrainer

WARM_UP_STEPS = 3


class Clock(TrainerCallback):  # type: ignore[misc]
    """Notes when each optimizer step is done."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.ends: list[float] = []

    def on_step_end(self, *_arguments: Any, **_options: Any) -> None:  # noqa: ANN401
        """Note the time."""
        synchronize(self.device)
        self.ends.append(time.perf_counter())


def made_cache(sizes: Model, num_conversations: int, top_k: int) -> datasets.Dataset:
    """Return random conversations as the stage reads them, the first quarter of each a prompt."""
    draw = np.random.default_rng(0)
    length, start = sizes.conversation, sizes.conversation // 4
    num_labeled = length - start
    ids = draw.integers(sizes.vocab_size, size=(num_conversations, length), dtype=np.int32)
    first_T1 = draw.integers(sizes.vocab_size - top_k, size=(num_labeled, 1), dtype=np.int32)
    logprobs_K = np.log(0.9 * np.arange(top_k, 0, -1, dtype=np.float32) / (top_k * top_k))
    signals = [
        TokenDistributions(
            np.full(num_labeled, -2.0, dtype=np.float32),
            np.full(num_labeled, top_k, dtype=np.int64),
            (first_T1 + np.arange(top_k, dtype=np.int32)).flatten(),
            np.tile(logprobs_K, num_labeled),
        )
    ] * num_conversations
    table = {
        "token_ids": pa.array(list(ids), pa.list_(pa.int32())),
        "turn_starts": pa.array([[start]] * num_conversations, pa.list_(pa.int32())),
        "turn_lengths": pa.array([[num_labeled]] * num_conversations, pa.list_(pa.int32())),
        "length": pa.array([length] * num_conversations, pa.int32()),
        **encode(signals, sizes.vocab_size),
    }
    return datasets.Dataset(pa.table(table)).with_format("numpy")


def padding_alone() -> PreTrainedTokenizerFast:
    """Return a tokenizer that can only pad, which is all that the trainer asks of it."""
    known = Tokenizer(models.WordLevel({"<pad>": 0}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=known, pad_token="<pad>", eos_token="<pad>")


def training(device: str, sizes: Model, top_k: int = 64, rounds: int = 8) -> Iterator[Row]:
    """Measure optimizer steps of the trainer."""
    num_steps = WARM_UP_STEPS + rounds
    per_row = sizes.length // sizes.conversation
    split = made_cache(sizes, num_steps * sizes.rows * per_row, top_k)
    bins, collator = pack_split(split, Collator(sizes.length, pad_token_id=0), seed=0)
    config = TrainConfig(
        packing=True,
        batch_size=sizes.rows,
        max_length=sizes.length,
        max_steps=num_steps,
        save_steps=10**6,
        logging_steps=num_steps,
    )
    clock = Clock(device)
    with tempfile.TemporaryDirectory() as name:
        trainer = DistillationTrainer(
            model=random_model(sizes, device),
            args=offline_arguments(config, Path(name)),
            mix=mix_of(config.kd),
            train_dataset=bins,
            collator=collator,
            processing_class=padding_alone(),
            callbacks=[clock],
        )
        trainer.train()
    seconds = median(np.diff(clock.ends)[WARM_UP_STEPS - 1 :])
    num_labeled = sizes.rows * per_row * (sizes.conversation - sizes.conversation // 4)
    title = f"trainer, {sizes.name}, packed, from a made cache"
    yield Row(f"{title}: speed", f"{sizes.rows * sizes.length / seconds:,.0f} tokens/s")
    yield from mfu_rows(title, step_flops(trainer.model, sizes, num_labeled) / seconds, device)
    yield Row(f"{title}: loss", f"{trainer.state.log_history[0]['loss']:.2f}")
