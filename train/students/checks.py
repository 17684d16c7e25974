"""Checks of the losses' and batches' assumptions about a model.

In: a causal language model. Out: nothing, or a TrainingError.

Shape legend: B rows, L length, N tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from potstill.errors import TrainingError
from train.data.batches import PackedCollator
from train.heads import output_head

HEAD_TOLERANCE = 1e-3
"""Largest difference between a model's logits and its head's, relative to the largest logit."""
LOGITS_TOLERANCE = 1e-4
"""Largest difference between logits that should agree, as a share of the largest of them. Merging
adapters of SmolLM2-135M in float32 leaves a share of 7e-6 at most; a wrong merge one near 1."""
MIXED_TOLERANCE = 0.01
"""Rounding in bfloat16 is below it, the effect of another conversation far above."""


@contextmanager
def evaluating(model: Any) -> Iterator[None]:  # noqa: ANN401  (untyped library)
    """Put a model into evaluation mode for the block, then restore each module's mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def refuse_unknown_head(model: Any, checkpoint_dir: Path) -> None:  # noqa: ANN401
    """Check that `output_head` gives the logits that the model itself computes.

    Raises:
        TrainingError: The model computes its logits from the hidden states differently.
    """
    input_ids = torch.tensor([[0, 1]], device=model.device)
    with evaluating(model):
        expected = model(input_ids=input_ids, use_cache=False).logits[0].float()
        hidden = model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state[0]
    difference = float((output_head(model).logits(hidden) - expected).abs().max())
    if not difference <= HEAD_TOLERANCE * float(expected.abs().max()):
        raise TrainingError(
            "the model transforms its logits in a way that the losses do not support",
            where=checkpoint_dir / "config.json",
            expected="no more than bias, logit scale and soft-cap, as known settings",
            found=f"{model.config.model_type}: logits differ by {difference:.3g}",
            hint="use a checkpoint of another family",
        )


@torch.no_grad()
def refuse_mixed_rows(model: Any, collator: PackedCollator) -> None:  # noqa: ANN401
    """Check that a model computes the same for packed conversations as for each alone.

    Recurrent layers and convolutions ignore positions that start again at 0.

    Raises:
        TrainingError: The results differ.
    """
    shortest = np.resize(np.argsort(collator.split["length"][:], kind="stable")[:2], 2)
    padded = collator.collator(collator.split.__getitems__(shortest.tolist()))
    packed = collator([{"conversations": shortest}])
    with evaluating(model):
        apart_ND = _hidden_states(model, padded, "attention_mask")[padded["attention_mask"] == 1]
        together_ND = _hidden_states(model, packed, "position_ids")[0, : len(apart_ND)]
    difference = float((together_ND - apart_ND).abs().max() / apart_ND.abs().max())
    if not difference <= MIXED_TOLERANCE:
        raise TrainingError(
            "the model mixes conversations that share a row",
            where="train.packing",
            expected=f"hidden states as of each alone, within {MIXED_TOLERANCE:.0%} of the largest",
            found=f"{model.config.model_type}: they differ by {difference:.0%}",
            hint="train with --set train.packing=false",
        )


@torch.no_grad()
def logits_of(model: Any, token_ids: list[int]) -> Tensor:  # noqa: ANN401
    """Return the logits [L, V] that a model gives to a text, in float32."""
    input_ids = torch.tensor([token_ids], device=model.device)
    logits_LV: Tensor = model.eval()(input_ids=input_ids, use_cache=False).logits[0]
    return logits_LV.float()


def refuse_other_logits(found_LV: Tensor, expected_LV: Tensor, what: str, where: object) -> None:
    """Check that two models which should be the same give the same logits.

    Args:
        what: The error's text if they do not.
        where: The error's place.

    Raises:
        TrainingError: They differ by more than LOGITS_TOLERANCE.
    """
    difference = float((found_LV - expected_LV).abs().max())
    largest = float(expected_LV.abs().max())
    if not difference <= LOGITS_TOLERANCE * largest:
        raise TrainingError(
            what,
            where=where,
            expected=f"logits within {LOGITS_TOLERANCE * largest:.2g}",
            found=f"a difference of {difference:.2g}",
        )


def _hidden_states(model: Any, batch: dict[str, Tensor], told_apart_by: str) -> Tensor:  # noqa: ANN401
    inputs = {name: batch[name].to(model.device) for name in ("input_ids", told_apart_by)}
    hidden_BLD: Tensor = model.base_model(**inputs, use_cache=False).last_hidden_state
    return hidden_BLD.cpu()
