"""Stored conversations as training examples and padded batches.

In: the conversations' Parquet parts. Out: an Arrow-backed dataset, and batches of tensors in which
row t of the teacher's distributions belongs to completion token t. Nothing is tokenised again.
Knows nothing of models.

Shape legend: B conversations, L padded length, T labelled tokens of a batch, K stored entries.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor
from torch.utils.data import Sampler

from potstill.errors import TrainingError
from potstill.fidelity import TeacherRows
from potstill.schema import Split
from potstill.tables import CONVERSATION_SCHEMA, read_batches

logger = logging.getLogger(__name__)

IGNORED_LABEL = -100
"""Marks tokens without a loss, for transformers as for us."""
COLUMNS = [
    "prompt_token_ids",
    "completion_token_ids",
    "num_top_logprobs",
    "top_token_ids",
    "top_logprobs",
]
BATCHES_PER_GROUP = 32
"""Conversations are sorted by length within groups of so many batches: little padding, while the
batches of an epoch still come in random order."""


def load_split(conversations_dir: Path, split: Split, max_length: int) -> datasets.Dataset:
    """Return a split's conversations whose prompt leaves room for a completion token.

    The columns stay Arrow lists in memory; `length` is added, prompt and completion together, cut
    at `max_length`.

    Raises:
        ArtifactError: A part is damaged.
        TrainingError: No conversation is left.
    """
    batches = [
        batch.filter(pc.equal(batch["split"], split)).select(COLUMNS)
        for path in sorted(conversations_dir.glob("part-*.parquet"))
        for batch in read_batches(path, CONVERSATION_SCHEMA, ["split", *COLUMNS])
    ]
    table = pa.Table.from_batches(
        batches, pa.schema([CONVERSATION_SCHEMA.field(name) for name in COLUMNS])
    )
    num_stored = table.num_rows
    prompt_lengths = pc.list_value_length(table["prompt_token_ids"])
    table = table.filter(pc.less(prompt_lengths, max_length))
    if table.num_rows == 0:
        raise TrainingError(
            f"the {split} split has no conversation to work with",
            where=conversations_dir,
            expected=f"conversations whose prompt is shorter than max_length = {max_length} tokens",
            found=f"{num_stored} conversations, all with longer prompts" if num_stored else "none",
            hint="generate more conversations, or raise train.max_length",
        )
    if table.num_rows < num_stored:
        logger.warning(
            "%s split: %d of %d conversations are left out, their prompts reach max_length = %d",
            split,
            num_stored - table.num_rows,
            num_stored,
            max_length,
        )
    lengths = pc.add(
        pc.list_value_length(table["prompt_token_ids"]),
        pc.list_value_length(table["completion_token_ids"]),
    )
    lengths = pc.min_element_wise(lengths, pa.scalar(max_length, pa.int32()))
    return datasets.Dataset(table.append_column("length", lengths)).with_format("numpy")


def largest_token_id(dataset: datasets.Dataset) -> int:
    """Return the largest token id anywhere in a split, stored alternatives included."""
    table = dataset.data.table
    columns = ("prompt_token_ids", "completion_token_ids", "top_token_ids")
    return max(pc.max(pc.list_flatten(table[name])).as_py() or 0 for name in columns)


@dataclass(frozen=True)
class Collator:
    """Pads conversations on the right into one batch of tensors."""

    max_length: int
    pad_token_id: int

    def teacher_rows(self, row: dict[str, Any]) -> TeacherRows:
        """Return the teacher's signal for the completion tokens that `max_length` leaves."""
        num_tokens = self.max_length - len(row["prompt_token_ids"])
        counts = np.asarray(row["num_top_logprobs"][:num_tokens], dtype=np.int64)
        num_stored = counts.sum()
        return TeacherRows.from_row(
            {
                "completion_token_ids": row["completion_token_ids"][:num_tokens],
                "num_top_logprobs": counts,
                "top_token_ids": row["top_token_ids"][:num_stored],
                "top_logprobs": row["top_logprobs"][:num_stored],
            }
        )

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Return `input_ids`, `attention_mask` and `labels` [B, L] and the teacher's rows.

        `top_token_ids` and `top_logprobs` [T, K] follow the labelled tokens in row-major order;
        absent entries have id -1.
        """
        prompts = [np.asarray(row["prompt_token_ids"], dtype=np.int64) for row in rows]
        teachers = [self.teacher_rows(row) for row in rows]
        length = max(
            len(prompt) + len(teacher.token_ids_T)
            for prompt, teacher in zip(prompts, teachers, strict=True)
        )
        input_ids = np.full((len(rows), length), self.pad_token_id, dtype=np.int64)
        labels = np.full_like(input_ids, IGNORED_LABEL)
        attention_mask = np.zeros_like(input_ids)
        for index, (prompt, teacher) in enumerate(zip(prompts, teachers, strict=True)):
            start, end = len(prompt), len(prompt) + len(teacher.token_ids_T)
            input_ids[index, :start] = prompt
            input_ids[index, start:end] = labels[index, start:end] = teacher.token_ids_T
            attention_mask[index, :end] = 1
        return {
            "input_ids": torch.from_numpy(input_ids),
            "attention_mask": torch.from_numpy(attention_mask),
            "labels": torch.from_numpy(labels),
            "top_token_ids": _stack([teacher.top_token_ids_TK for teacher in teachers], -1),
            "top_logprobs": _stack([teacher.top_logprobs_TK for teacher in teachers], 0.0).float(),
        }


class SimilarLengths(Sampler[int]):
    """Indices in an order that fills batches with conversations of similar length.

    The order depends on seed and epoch only, so a resumed run sees the same batches.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths = np.asarray(lengths)
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((self._seed, self._epoch))
        order = random.permutation(len(self._lengths))
        batches: list[np.ndarray] = []
        for start in range(0, len(order), self._batch_size * BATCHES_PER_GROUP):
            group = order[start : start + self._batch_size * BATCHES_PER_GROUP]
            group = group[np.argsort(-self._lengths[group], kind="stable")]
            batches += np.split(group, range(self._batch_size, len(group), self._batch_size))
        whole = [batch for batch in batches if len(batch) == self._batch_size]
        partial = [batch for batch in batches if len(batch) < self._batch_size]
        random.shuffle(whole)
        for batch in (*whole, *partial):
            yield from batch.tolist()


def _stack(parts: Sequence[np.ndarray], fill: float) -> Tensor:
    width = max(part.shape[1] for part in parts)
    padded = [
        np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=fill) for part in parts
    ]
    return torch.from_numpy(np.concatenate(padded))
