"""The choice of a model's layers, and the model without the others.

In: a decoder-only model and token ids. Out: the influence of each layer, the layers kept by one of
three rules, and the model with these only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from potstill.errors import TrainingError

PER_LAYER_SETTINGS = (
    "layer_types",
    "mlp_layer_types",
    "no_rope_layers",
    "layer_rope_theta",
    "indexer_types",
)
"""Lists with an entry for each layer in the configurations of transformers 5.19."""


def decoder_layers(model: Any) -> nn.ModuleList:  # noqa: ANN401  (untyped library)
    """Return the model's decoder layers, lowest first.

    Raises:
        TrainingError: The model keeps its layers elsewhere than in `layers` of its decoder.
    """
    layers = getattr(model.get_decoder(), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise TrainingError(
            "this kind of model cannot be pruned",
            where=type(model).__name__,
            expected="a decoder-only model that keeps its layers in `layers`",
            hint="name a smaller checkpoint with --set train.student.checkpoint=PATH",
        )
    return layers


@torch.no_grad()
def run_with_hooks(
    model: Any,  # noqa: ANN401  (untyped library)
    conversations: Iterable[Tensor],
    modules: Sequence[nn.Module],
    observe: Callable[[int, Tensor, Any], None],
) -> None:
    """Run the model on each conversation, and observe the inputs and outputs of some modules.

    Args:
        conversations: Token ids [L] each.
        modules: The observed modules.
        observe: Called with a module's index, its input and its output, of one conversation.
    """
    model.eval()
    with ExitStack() as stack:
        for index, module in enumerate(modules):
            hook = partial(_show, partial(observe, index))
            stack.callback(module.register_forward_hook(hook).remove)
        for token_ids_L in conversations:
            model.base_model(input_ids=token_ids_L[None].to(model.device), use_cache=False)


def _show(
    observe: Callable[[Tensor, Any], None],
    _module: nn.Module,
    inputs: tuple[Tensor, ...],
    output: Any,  # noqa: ANN401
) -> None:
    observe(inputs[0], output)


def block_influence(model: Any, conversations: Iterable[Tensor]) -> list[float]:  # noqa: ANN401
    """Return each layer's 1 - cos(input, output), averaged over all tokens.

    Source: Men et al. 2024, "ShortGPT", equation 1.

    Args:
        model: A decoder-only model.
        conversations: Token ids [L] each.
    """
    layers = decoder_layers(model)
    sums, num_tokens = [0.0] * len(layers), [0] * len(layers)

    def add(index: int, before_1LD: Tensor, output: Any) -> None:  # noqa: ANN401
        after_1LD = output[0] if isinstance(output, tuple) else output
        cosine_1L = torch.cosine_similarity(before_1LD.float(), after_1LD.float(), dim=-1)
        sums[index] += float((1.0 - cosine_1L).sum())
        num_tokens[index] += cosine_1L.numel()

    run_with_hooks(model, conversations, list(layers), add)
    return [total / count for total, count in zip(sums, num_tokens, strict=True)]


def most_influential(influence: Sequence[float], num_kept: int) -> list[int]:
    """Return the ascending indices of the layers that stay."""
    ranked = sorted(range(len(influence)), key=lambda index: influence[index], reverse=True)
    return sorted(ranked[:num_kept])


def evenly_spread(num_layers: int, num_kept: int) -> list[int]:
    """Return the ascending indices of evenly spread layers, the first and the last among them."""
    gaps = max(num_kept - 1, 1)
    return [(2 * index * (num_layers - 1) + gaps) // (2 * gaps) for index in range(num_kept)]


def keep_layers(model: Any, kept: Sequence[int]) -> None:  # noqa: ANN401  (untyped library)
    """Remove the other layers from the model in place; adjust its config and layer numbers.

    Args:
        kept: Ascending indices of the layers that stay.
    """
    layers, config = decoder_layers(model), model.config.get_text_config()
    model.get_decoder().layers = nn.ModuleList(layers[index] for index in kept)
    module: Any
    for number, layer in enumerate(decoder_layers(model)):
        for module in layer.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                module.layer_idx = number
    for name in PER_LAYER_SETTINGS:
        if entries := getattr(config, name, None):
            with suppress(AttributeError):  # Falcon-H1 computes them from the number of layers.
                setattr(config, name, [entries[index] for index in kept])
    config.num_hidden_layers = len(kept)
