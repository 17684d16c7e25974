"""Conversations as batches of tensors: padded, or packed into rows that hold several.

In: rows of a split. Out: tensors in which row t of the teacher's distributions belongs to token t
of its answers.

Shape legend: B rows of a batch, L padded length, T labeled tokens of a batch, K stored entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from potstill.distributions import TokenDistributions, decode_row

IGNORED_LABEL = -100
"""Marks tokens without a loss, for transformers as for us."""

Row = dict[str, Any]
"""A conversation of a split: arrays by column."""
Ids = NDArray[np.int64]


def labeled_positions(row: Row, max_length: int) -> Ids:
    """Return the positions [T] of the tokens of a row's answers, up to `max_length`."""
    turns = zip(row["turn_starts"], row["turn_lengths"], strict=True)
    positions_T = np.concatenate([np.arange(start, start + length) for start, length in turns])
    return positions_T[positions_T < max_length]


def is_labeled(batch: dict[str, Tensor]) -> Tensor:
    """Return where [B, L - 1] the next token has a loss."""
    return batch["labels"][:, 1:] != IGNORED_LABEL


def labeled_token_ids(batch: dict[str, Tensor]) -> Tensor:
    """Return the ids [T] of the tokens with a loss, in row-major order."""
    return batch["labels"][:, 1:][is_labeled(batch)]


def num_tokens(batch: dict[str, Tensor]) -> Tensor:
    """Return the number of tokens in a batch without padding.

    A packed batch has no mask, but each conversation has two tokens or more, and so exactly one at
    position 1 for its one at position 0.
    """
    if "attention_mask" in batch:
        return batch["attention_mask"].sum()
    positions_BL = batch["position_ids"]
    return (positions_BL > 0).sum() + (positions_BL == 1).sum()


@dataclass(frozen=True)
class Collator:
    """Pads conversations on the right into one batch of tensors."""

    max_length: int
    pad_token_id: int
    pad_to_multiple_of: int = 16
    """A batch is as long as its longest conversation, rounded up to a multiple of this, but no
    longer than `max_length`: on a CPU, oneDNN compiles and keeps a kernel for each length."""

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Return `input_ids`, `attention_mask` and `labels` [B, L], and the teacher's rows.

        `top_token_ids` and `top_logprobs` [T, K] and `sampled_logprobs` [T] follow the labeled
        tokens in row-major order. Absent entries have id -1 and log-probability -inf. Where the
        split has no signal, K is 0 and `sampled_logprobs` are NaN.
        """
        ids, labels = zip(*map(self.tokens, rows), strict=True)
        return {
            "input_ids": self.pad(ids, self.pad_token_id),
            "attention_mask": self.pad([np.ones_like(one) for one in ids], 0),
            "labels": self.pad(labels, IGNORED_LABEL),
            **self.targets(rows),
        }

    def tokens(self, row: Row) -> tuple[Ids, Ids]:
        """Return a conversation's token ids and labels, cut at `max_length`."""
        token_ids = np.asarray(row["token_ids"][: self.max_length], dtype=np.int64)
        positions_T = labeled_positions(row, self.max_length)
        labels = np.full_like(token_ids, IGNORED_LABEL)
        labels[positions_T] = token_ids[positions_T]
        return token_ids, labels

    def targets(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Return the teacher's rows of conversations, one conversation after another."""
        if not _has_signal(rows[0]):
            num_labeled = sum(len(labeled_positions(row, self.max_length)) for row in rows)
            return {
                "top_token_ids": torch.empty((num_labeled, 0), dtype=torch.int64),
                "top_logprobs": torch.empty((num_labeled, 0)),
                "sampled_logprobs": torch.full((num_labeled,), torch.nan),
            }
        whole = TokenDistributions.concatenate([self._signal(row) for row in rows])
        top_token_ids_TK, top_logprobs_TK = whole.padded()
        return {
            "top_token_ids": torch.from_numpy(top_token_ids_TK.astype(np.int64)),
            "top_logprobs": torch.from_numpy(top_logprobs_TK),
            "sampled_logprobs": torch.from_numpy(whole.sampled_logprobs_T),
        }

    def pad(self, rows: Sequence[Ids], fill: int) -> Tensor:
        """Return rows of ids as one tensor [B, L], with `fill` after the shorter ones."""
        longest = max(map(len, rows))
        rounded = -(-longest // self.pad_to_multiple_of) * self.pad_to_multiple_of
        length = max(longest, min(rounded, self.max_length))
        padded_BL = np.full((len(rows), length), fill, dtype=np.int64)
        for row_L, ids in zip(padded_BL, rows, strict=True):
            row_L[: len(ids)] = ids
        return torch.from_numpy(padded_BL)

    def _signal(self, row: Row) -> TokenDistributions:
        return decode_row(row).slice(0, len(labeled_positions(row, self.max_length)))


@dataclass(frozen=True)
class PackedCollator:
    """Packs conversations into rows, without attention between them.

    Without a mask and without a cache, transformers 5.19 restricts a token's attention to its row
    since the positions last restarted (`masking_utils.find_packed_sequence_indices`).
    """

    split: datasets.Dataset
    """The conversations that bins refer to."""
    collator: Collator
    one_row: bool = False
    """Put all bins of a batch into one row: flash attention reads positions only in that shape
    (`modeling_flash_attention_utils._is_packed_sequence`)."""

    def __call__(self, bins: Sequence[Row]) -> dict[str, Tensor]:
        """Return `input_ids`, `position_ids` and `labels` [B, L], and the teacher's rows.

        Positions start at 0 in each conversation and are 0 in the padding. The teacher's rows are
        as in a padded batch.

        Args:
            bins: Rows of a dataset that `train.data.packing.pack_split` made.
        """
        numbers = [np.asarray(one["conversations"]) for one in bins]
        if self.one_row:
            numbers = [np.concatenate(numbers)]
        packed = [self.split.__getitems__(one.tolist()) for one in numbers]
        ids, labels, positions = zip(*map(self._joined, packed), strict=True)
        return {
            "input_ids": self.collator.pad(ids, self.collator.pad_token_id),
            "position_ids": self.collator.pad(positions, 0),
            "labels": self.collator.pad(labels, IGNORED_LABEL),
            **self.collator.targets([row for rows in packed for row in rows]),
        }

    def _joined(self, rows: Sequence[Row]) -> tuple[Ids, Ids, Ids]:
        ids, labels = zip(*map(self.collator.tokens, rows), strict=True)
        positions = [np.arange(len(one)) for one in ids]
        return np.concatenate(ids), np.concatenate(labels), np.concatenate(positions)


def _has_signal(row: Row) -> bool:
    """Return whether the teacher's distributions are stored; retokenized text has none."""
    return "top_token_ids" in row
