"""Stored conversations as training examples and padded batches.

In: a split's Parquet files. Out: an Arrow-backed dataset, and batches of tensors in which row t of
the teacher's distributions belongs to token t of its answers. Nothing is tokenised again.
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
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

from potstill.distributions import SIGNAL_COLUMNS, decode_row
from potstill.errors import TrainingError
from potstill.fidelity import TeacherRows
from potstill.schema import Split
from potstill.tables import conversation_paths, read_conversation_batches

logger = logging.getLogger(__name__)

IGNORED_LABEL = -100
"""Marks tokens without a loss, for transformers as for us."""
COLUMNS = ["token_ids", "turn_starts", "turn_lengths", *SIGNAL_COLUMNS]
BATCHES_PER_GROUP = 32
"""Conversations are sorted by length within groups of so many batches: little padding, while the
batches of an epoch still come in random order."""


def load_split(conversations_dir: Path, split: Split, max_length: int) -> datasets.Dataset:
    """Return a split's conversations whose prompt leaves room for a token of the first answer.

    The columns stay Arrow lists in memory; `length` is added, that of the whole conversation cut at
    `max_length`.

    Raises:
        ArtifactError: A file is damaged.
        TrainingError: No conversation is left.
    """
    stored = [
        _with_turns(batch)
        for path in conversation_paths(conversations_dir, split)
        for batch in read_conversation_batches(path, ["token_ids", "turns", *SIGNAL_COLUMNS])
    ]
    num_stored = sum(batch.num_rows for batch in stored)
    fitting = [
        batch.filter(pc.less(pc.list_element(batch["turn_starts"], 0), max_length))
        for batch in stored
        if batch.num_rows
    ]
    if not any(batch.num_rows for batch in fitting):
        raise TrainingError(
            f"the {split} split has no conversation to work with",
            where=conversations_dir,
            expected=f"conversations whose prompt is shorter than max_length = {max_length} tokens",
            found=f"{num_stored} conversations, all with longer prompts" if num_stored else "none",
            hint="generate more conversations, or raise train.max_length",
        )
    table = pa.Table.from_batches(fitting)
    if table.num_rows < num_stored:
        logger.warning(
            "%s split: %d of %d conversations are left out, their prompts reach max_length = %d",
            split,
            num_stored - table.num_rows,
            num_stored,
            max_length,
        )
    lengths = pc.min_element_wise(
        pc.list_value_length(table["token_ids"]), pa.scalar(max_length, pa.int32())
    )
    return datasets.Dataset(table.append_column("length", lengths)).with_format("numpy")


def largest_token_id(dataset: datasets.Dataset) -> int:
    """Return the largest token id anywhere in a split, stored alternatives included."""
    table = dataset.data.table
    columns = ("token_ids", "top_token_ids")
    return max(pc.max(pc.list_flatten(table[name])).as_py() or 0 for name in columns)


def labelled_positions(row: dict[str, Any], max_length: int) -> NDArray[np.int64]:
    """Return the positions [T] of the tokens of a row's answers that `max_length` leaves."""
    turns = zip(row["turn_starts"], row["turn_lengths"], strict=True)
    positions_T = np.concatenate([np.arange(start, start + length) for start, length in turns])
    return positions_T[positions_T < max_length]


def _with_turns(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Lay the turns' starts and lengths out as columns of their own."""
    turns = batch["turns"]
    for name, field in (("turn_starts", "start"), ("turn_lengths", "num_tokens")):
        column = pa.ListArray.from_arrays(turns.offsets, pc.struct_field(turns.values, field))
        batch = batch.append_column(name, column)
    return batch.select(COLUMNS)


@dataclass(frozen=True)
class Collator:
    """Pads conversations on the right into one batch of tensors."""

    max_length: int
    pad_token_id: int

    def teacher_rows(self, row: dict[str, Any]) -> TeacherRows:
        """Return the teacher's signal for the tokens of its answers that `max_length` leaves."""
        positions_T = labelled_positions(row, self.max_length)
        signal = decode_row(row).slice(0, len(positions_T))
        token_ids_T = np.asarray(row["token_ids"], dtype=np.int64)[positions_T]
        return TeacherRows.from_signal(token_ids_T, signal)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Return `input_ids`, `attention_mask` and `labels` [B, L] and the teacher's rows.

        `top_token_ids` and `top_logprobs` [T, K] follow the labelled tokens in row-major order;
        absent entries have id -1.
        """
        conversations = [
            np.asarray(row["token_ids"][: self.max_length], dtype=np.int64) for row in rows
        ]
        teachers = [self.teacher_rows(row) for row in rows]
        length = max(map(len, conversations))
        input_ids = np.full((len(rows), length), self.pad_token_id, dtype=np.int64)
        labels = np.full_like(input_ids, IGNORED_LABEL)
        attention_mask = np.zeros_like(input_ids)
        for index, (row, token_ids) in enumerate(zip(rows, conversations, strict=True)):
            positions_T = labelled_positions(row, self.max_length)
            input_ids[index, : len(token_ids)] = token_ids
            labels[index, positions_T] = token_ids[positions_T]
            attention_mask[index, : len(token_ids)] = 1
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
        batches: list[NDArray[np.int64]] = []
        for start in range(0, len(order), self._batch_size * BATCHES_PER_GROUP):
            group = order[start : start + self._batch_size * BATCHES_PER_GROUP]
            group = group[np.argsort(-self._lengths[group], kind="stable")]
            batches += np.split(group, range(self._batch_size, len(group), self._batch_size))
        whole = [batch for batch in batches if len(batch) == self._batch_size]
        partial = [batch for batch in batches if len(batch) < self._batch_size]
        random.shuffle(whole)
        for batch in (*whole, *partial):
            yield from batch.tolist()


def _stack(parts: Sequence[NDArray[Any]], fill: float) -> Tensor:
    width = max(part.shape[1] for part in parts)
    padded = [
        np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=fill) for part in parts
    ]
    return torch.from_numpy(np.concatenate(padded))
