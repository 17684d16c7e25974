"""The choice of neurons of each layer's MLP, and the model without the others.

In: a decoder-only model with gated MLPs (gate_proj, up_proj, down_proj), and token ids. Out: the
importance of each neuron, the kept ones, and the model with these only.

Shape legend: L length, M neurons, D width.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from potstill.errors import TrainingError
from train.students.pruning.layers import decoder_layers, run_with_hooks

logger = logging.getLogger(__name__)

BLOCK, SUPERBLOCK = 32, 256
"""Weights that share a scale in GGUF: of Q8_0, and of the K-quants (llama.cpp, ggml-common.h)."""


@dataclass(frozen=True)
class GatedMLP:
    """One layer's MLP: down(act(gate(x)) * up(x))."""

    module: Any
    gate: nn.Linear
    up: nn.Linear
    down: nn.Linear

    @property
    def num_neurons(self) -> int:
        """Number of neurons."""
        return self.down.in_features


def gated_mlps(model: Any) -> list[GatedMLP]:  # noqa: ANN401  (untyped library)
    """Return the MLP of each layer.

    Raises:
        TrainingError: They do not all have three projections and the same width.
    """
    kind, found = type(model).__name__, []
    for number, layer in enumerate(decoder_layers(model)):
        mlp = getattr(layer, "mlp", nn.Module())
        projections = [getattr(mlp, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
        linears = [one for one in projections if isinstance(one, nn.Linear)]
        if len(linears) != len(projections):
            children = ", ".join(child for child, _ in mlp.named_children())
            raise _unsuited(f"{kind}, layer {number}", children or "no MLP")
        found.append(GatedMLP(mlp, *linears))
    size = model.config.get_text_config().intermediate_size
    if not isinstance(size, int) or {mlp.num_neurons for mlp in found} != {size}:
        raise _unsuited(kind, f"intermediate_size {size}")
    return found


def neuron_importance(model: Any, conversations: Iterable[Tensor]) -> list[Tensor]:  # noqa: ANN401
    """Return each neuron's importance [M] for each layer.

    It is the mean absolute activation over a conversation's tokens, and the L2 norm of these means
    over the conversations. The activation is the input of down_proj, the gated one.

    Source: Muralidharan et al. 2024, "Compact Language Models via Pruning and Knowledge
    Distillation" (Minitron), sections 2.2 and 4.1, best practice 2: batch=L2, seq=mean; for gated
    MLPs at the input of the second matrix as NVIDIA ModelOpt's MegatronL2NormHook.

    Args:
        model: A decoder-only model with gated MLPs.
        conversations: Token ids [L] each.
    """
    mlps = gated_mlps(model)
    squares = [torch.zeros(mlp.num_neurons, dtype=torch.float64) for mlp in mlps]

    def add(index: int, activations_1LM: Tensor, _output: Any) -> None:  # noqa: ANN401
        if activations_1LM.is_mps:  # Apple's GPUs have no float64.
            activations_1LM = activations_1LM.cpu()
        mean_M = activations_1LM.double().abs().mean(dim=(0, 1))
        squares[index] += mean_M.square().cpu()

    run_with_hooks(model, conversations, [mlp.down for mlp in mlps], add)
    return [square_M.sqrt() for square_M in squares]


def most_important(importance_M: Tensor, num_kept: int) -> list[int]:
    """Return the ascending indices of the neurons that stay; of equal ones the lower."""
    order = torch.argsort(importance_M, descending=True, stable=True)
    return sorted(order[:num_kept].tolist())


def warn_of_odd_size(size: int) -> None:
    """Warn if quantized files will hold down_proj in a larger type than their own.

    Args:
        size: Neurons that stay in each MLP: the length of down_proj's rows.
    """
    for block, types, instead in (
        (BLOCK, "quantized types", "F16"),
        (SUPERBLOCK, "K-quants such as Q4_K_M", "a larger type"),
    ):
        if size % block:
            below = size // block * block
            nearest = " or ".join(str(one) for one in (below, below + block) if one)
            logger.warning(
                "train.student.intermediate_size = %d is not a multiple of %d: %s will hold a "
                "third of each MLP as %s; the nearest multiples are %s",
                size,
                block,
                types,
                instead,
                nearest,
            )
            return


def keep_neurons(model: Any, kept: Sequence[Sequence[int]]) -> None:  # noqa: ANN401
    """Remove the other neurons from the model in place, and adjust its config.

    Args:
        kept: The indices of the neurons that stay, for each layer; equally many in all.
    """
    for mlp, indices in zip(gated_mlps(model), kept, strict=True):
        rows = torch.tensor(indices, device=mlp.down.weight.device)
        for linear in (mlp.gate, mlp.up):
            linear.weight = _cut(linear.weight, rows, dim=0)
            if linear.bias is not None:
                linear.bias = _cut(linear.bias, rows, dim=0)
            linear.out_features = len(rows)
        mlp.down.weight = _cut(mlp.down.weight, rows, dim=1)
        mlp.down.in_features = len(rows)
        if hasattr(mlp.module, "intermediate_size"):
            mlp.module.intermediate_size = len(rows)
    model.config.get_text_config().intermediate_size = len(kept[0])


def _unsuited(where: str, found: str) -> TrainingError:
    return TrainingError(
        "the MLPs of this kind of model cannot be made narrower",
        where=where,
        expected="MLPs of one width with linear gate_proj, up_proj and down_proj",
        found=found,
        hint="remove layers instead: unset train.student.intermediate_size",
    )


def _cut(weight: Tensor, rows: Tensor, dim: int) -> nn.Parameter:
    return nn.Parameter(weight.detach().index_select(dim, rows))
