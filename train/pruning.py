"""Removing the layers a model can best do without.

In: a decoder-only model and batches of text. Out: the influence of each layer, and the same model
with fewer of them. Knows nothing of files or of training.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from potstill.errors import TrainingError


def decoder_layers(model: Any) -> nn.ModuleList:  # noqa: ANN401  (untyped library)
    """Return the model's decoder layers, lowest first.

    Raises:
        TrainingError: The model keeps its layers elsewhere than at `base_model.layers`.
    """
    layers = getattr(model.base_model, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise TrainingError(
            "layers of this kind of model cannot be removed",
            where=type(model).__name__,
            expected="a decoder-only model with `base_model.layers`",
            hint="name a smaller checkpoint with --set train.student.checkpoint=PATH",
        )
    return layers


@torch.no_grad()
def block_influence(model: Any, batches: Iterable[dict[str, Tensor]]) -> list[float]:  # noqa: ANN401
    """Return each layer's 1 - cos(input, output), averaged over all tokens that are not padding.

    Source: Men et al. 2024, "ShortGPT", equation 1.

    Args:
        model: A decoder-only model.
        batches: `input_ids` and `attention_mask` [B, L] each.
    """
    layers = decoder_layers(model)
    sums = [0.0] * len(layers)
    num_tokens = 0
    mask = torch.empty(0)

    def measure(index: int, inputs: tuple[Tensor, ...], output: Any) -> None:  # noqa: ANN401
        hidden = output[0] if isinstance(output, tuple) else output
        cosine = torch.cosine_similarity(inputs[0].float(), hidden.float(), dim=-1)
        sums[index] += float((1.0 - cosine)[mask].sum())

    hooks = [
        layer.register_forward_hook(
            lambda _layer, inputs, output, index=index: measure(index, inputs, output)
        )
        for index, layer in enumerate(layers)
    ]
    try:
        for batch in batches:
            mask = batch["attention_mask"].bool()
            num_tokens += int(mask.sum())
            model.base_model(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                use_cache=False,
            )
    finally:
        for hook in hooks:
            hook.remove()
    return [total / num_tokens for total in sums]


def least_influential(influence: Sequence[float], num_kept: int) -> list[int]:
    """Return the ascending indices of the layers to remove so that `num_kept` stay.

    Raises:
        TrainingError: That leaves no layer, or removes none.
    """
    if not 1 <= num_kept < len(influence):
        raise TrainingError(
            "the student cannot have this number of layers",
            where="train.student.num_layers",
            expected=f"1 to {len(influence) - 1} (the teacher has {len(influence)})",
            found=num_kept,
        )
    ranked = sorted(range(len(influence)), key=lambda index: influence[index])
    return sorted(ranked[: len(influence) - num_kept])


def remove_layers(model: Any, removed: Sequence[int]) -> None:  # noqa: ANN401  (untyped library)
    """Take layers out of the model in place, and make its config and layer numbers agree."""
    gone = set(removed)
    kept = [index for index in range(len(decoder_layers(model))) if index not in gone]
    layers = decoder_layers(model)
    model.base_model.layers = nn.ModuleList(layers[index] for index in kept)
    for number, layer in enumerate(model.base_model.layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = number
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[index] for index in kept]
    model.config.num_hidden_layers = len(kept)
