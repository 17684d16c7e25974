"""Conversations as padded batches of tensors.

In: rows of a split. Out: tensors in which row t of the teacher's distributions belongs to token t
of its answers. Knows nothing of files or models.

Shape legend: B conversations, L padded length, T labelled tokens of a batch, K stored entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from potstill.distributions import decode_row
from potstill.fidelity import TeacherRows

IGNORED_LABEL = -100
"""Marks tokens without a loss, for transformers as for us."""


def labelled_positions(row: dict[str, Any], max_length: int) -> NDArray[np.int64]:
    """Return the positions [T] of the tokens of a row's answers that `max_length` leaves."""
    turns = zip(row["turn_starts"], row["turn_lengths"], strict=True)
    positions_T = np.concatenate([np.arange(start, start + length) for start, length in turns])
    return positions_T[positions_T < max_length]


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


def _stack(parts: Sequence[NDArray[Any]], fill: float) -> Tensor:
    width = max(part.shape[1] for part in parts)
    padded = [
        np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=fill) for part in parts
    ]
    return torch.from_numpy(np.concatenate(padded))
