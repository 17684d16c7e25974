"""A model that computes with the weights of a quantized file.

In: a model with weights in full precision. Out: the same model, with its weights replaced
temporarily or permanently.

Gradients computed then are those at the quantized weights; used as gradients of the full ones they
are the straight-through estimate (Bengio et al. 2013, section 4). Parameters are replaced in place,
so wrappers of the model, including those that shard it by rows, are unaffected.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from train.quantization_aware.blocks import read_back
from train.quantization_aware.tensors import tensor_types


@dataclass(frozen=True)
class Quantization:
    """How a model's weights are quantized in a file."""

    types: Mapping[str, str]
    """Keys of `BLOCK_TYPES`, or "F16", by parameter name."""
    save_dtype: torch.dtype
    """The precision in which the weights are saved before a file is made of them."""

    @classmethod
    def of(cls, model: Any, file_type: str, save_dtype: str) -> Self:  # noqa: ANN401
        """Return the quantization of all weight matrices in a file of the type.

        Raises:
            TrainingError: The model has weights that are not quantized row by row.
        """
        return cls(tensor_types(model, file_type), getattr(torch, save_dtype))

    def without(self, names: Set[str]) -> Self:
        """Return the quantization of the other parameters."""
        types = {name: one for name, one in self.types.items() if name not in names}
        return type(self)(types, self.save_dtype)

    @torch.no_grad()
    def replace_weights(self, model: Any) -> None:  # noqa: ANN401  (untyped library)
        """Replace a model's weights by quantized ones permanently."""
        for name, weights in self._weights_of(model).items():
            weights.copy_(read_back(weights.to(self.save_dtype), self.types[name]))

    @contextmanager
    def applied(self, model: Any) -> Iterator[None]:  # noqa: ANN401  (untyped library)
        """Give a model quantized weights for the block; the full ones are kept in memory."""
        full = {name: weights.clone() for name, weights in self._weights_of(model).items()}
        try:
            self.replace_weights(model)
            yield
        finally:
            for name, weights in self._weights_of(model).items():
                weights.copy_(full[name])

    def _weights_of(self, model: Any) -> dict[str, Tensor]:  # noqa: ANN401
        """Return this process's rows of each matrix: blocks do not reach beyond a row.

        Copies that FSDP gathered for an earlier forward pass are freed.
        """
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        parameters = {name: model.get_parameter(name).detach() for name in self.types}
        return {
            name: one.to_local() if isinstance(one, DTensor) else one
            for name, one in parameters.items()
        }
