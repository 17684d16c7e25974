"""Conversations joined to rows of up to `max_length` tokens, so that next to nothing is padding.

In: a split and a seed. Out: a dataset of bins, the same for the same seed, so that a resumed run
has the same rows; and the certainty that a model keeps the conversations of a row apart.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from potstill.errors import TrainingError
from train.data.batches import Collator, PackedCollator
from train.evaluation.fidelity import evaluating

CONVERSATIONS_PER_GROUP = 1024
"""Bins are filled within random groups of so many: enough to fill them to the brim, few enough that
which conversations share a row, and with it a step, stays a matter of chance."""

MIXED_TOLERANCE = 0.01
"""Rounding in bfloat16 is below it, and what another conversation changes far above."""


def pack_split(
    split: datasets.Dataset, collator: Collator, seed: int, *, one_row: bool = False
) -> tuple[datasets.Dataset, PackedCollator]:
    """Return a split as rows of several conversations, and what makes batches of these rows.

    Args:
        collator: What would make padded batches.
        seed: Decides which conversations share a row.
        one_row: Whether a batch is to be one row, as flash attention needs it.
    """
    bins = pack(split["length"][:], collator.max_length, seed)
    return bins, PackedCollator(split, collator, one_row)


@torch.no_grad()
def refuse_mixed_rows(model: Any, collator: PackedCollator) -> None:  # noqa: ANN401
    """Make sure that a model computes of packed conversations what it does of each alone.

    Not every kind heeds positions that begin anew: recurrent layers and convolutions run on.

    Raises:
        TrainingError: It does not.
    """
    shortest = np.resize(np.argsort(collator.split["length"][:], kind="stable")[:2], 2)
    padded = collator.collator(collator.split.__getitems__(shortest.tolist()))
    packed = collator([{"conversations": shortest}])
    with evaluating(model):
        apart_ND = _hidden_states(model, padded, "attention_mask")[padded["attention_mask"] == 1]
        together_ND = _hidden_states(model, packed, "position_ids")[0]
    difference = float((together_ND - apart_ND).abs().max() / apart_ND.abs().max())
    if not difference <= MIXED_TOLERANCE:
        raise TrainingError(
            "the model lets conversations of one row see one another",
            where="train.packing",
            expected=f"hidden states as of each alone, within {MIXED_TOLERANCE:.0%} of the largest",
            found=f"{model.config.model_type}: they differ by {difference:.0%}",
            hint="train with --set train.packing=false",
        )


def pack(lengths: NDArray[np.int32], max_length: int, seed: int) -> datasets.Dataset:
    """Return a dataset of bins: `conversations`, numbers of a split, and their `length` together.

    Args:
        lengths: Tokens of each conversation, `max_length` at most.
        max_length: Tokens that a bin holds.
        seed: Decides which conversations are filled into bins together.
    """
    order = np.random.default_rng(seed).permutation(len(lengths))
    bins = [
        order[start : start + CONVERSATIONS_PER_GROUP][members]
        for start in range(0, len(order), CONVERSATIONS_PER_GROUP)
        for members in best_fit_decreasing(
            lengths[order[start : start + CONVERSATIONS_PER_GROUP]], max_length
        )
    ]
    table = pa.table(
        {
            "conversations": pa.array(bins, pa.list_(pa.int32())),
            "length": pa.array([int(lengths[one].sum()) for one in bins], pa.int32()),
        }
    )
    return datasets.Dataset(table).with_format("numpy")


def best_fit_decreasing(lengths: NDArray[np.int32], capacity: int) -> list[list[int]]:
    """Fill bins, the longest first, each into the fullest bin that has room for it.

    For many conversations it takes at most 11/9 of the fewest bins possible (Johnson et al. 1974,
    "Worst-case performance bounds for simple one-dimensional packing algorithms").

    Args:
        lengths: At most `capacity` each.
    """
    bins: list[list[int]] = []
    rooms: list[tuple[int, int]] = []
    """What is left of each bin, and its number, the fullest first."""
    for index in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[index])
        place = bisect_left(rooms, (length, 0))
        if place == len(rooms):
            bins.append([])
            room, number = capacity, len(bins) - 1
        else:
            room, number = rooms.pop(place)
        bins[number].append(index)
        insort(rooms, (room - length, number))
    return bins


def _hidden_states(model: Any, batch: dict[str, Tensor], told_apart_by: str) -> Tensor:  # noqa: ANN401
    inputs = {name: batch[name].to(model.device) for name in ("input_ids", told_apart_by)}
    hidden_BLD: Tensor = model.base_model(**inputs, use_cache=False).last_hidden_state
    return hidden_BLD.cpu()
