"""The output head of a language model: from hidden states to logits, as transformers does it.

In: a causal language model. Out: its head as plain values, and the hidden states that the head is
applied to.

Shape legend: B rows, L length, T labeled tokens, N tokens, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from train.data.batches import is_labeled

MULTIPLIERS = ("logit_scale", "output_multiplier", "lm_head_multiplier")
"""Names of the logits' factor in configurations: Cohere, Muse Glimmer, Falcon-H1."""


@dataclass(frozen=True)
class Head:
    """softcap · tanh(scale · (weight · hidden + bias) / softcap)."""

    weight_VD: Tensor
    bias_V: Tensor | None = None
    softcap: float | None = None
    """Bound of the logits' magnitude (Gemma); None: none."""
    scale: float = 1.0

    @torch.no_grad()
    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Return the logits [N, V], float32 from the product on, without a gradient."""
        product_NV = torch.nn.functional.linear(hidden_ND, self.weight_VD)
        return self.finish_(product_NV.to(torch.promote_types(product_NV.dtype, torch.float32)))

    def finish_(self, product_NV: Tensor) -> Tensor:
        """Turn the product of weight and hidden states into logits, in its memory."""
        if self.bias_V is not None:
            product_NV += self.bias_V
        if self.scale != 1.0:
            product_NV *= self.scale
        if self.softcap is not None:
            product_NV.div_(self.softcap).tanh_().mul_(self.softcap)
        return product_NV

    def bend(self, logits_NV: Tensor) -> Tensor:
        """Return the derivative of the soft-cap, 1 - (logits / softcap)², where there is one."""
        assert self.softcap is not None
        return torch.square(logits_NV).mul_(-1.0 / self.softcap**2).add_(1.0)


def output_head(model: Any) -> Head:  # noqa: ANN401  (untyped library)
    """Return a causal language model's head; sharded weights are gathered.

    Source: `add_fused_lm_head` in trl/trainer/utils.py, TRL 1.16, for the names of the settings.
    """
    config = model.config.get_text_config()
    head = model.get_output_embeddings()
    factors = (getattr(config, name, None) for name in MULTIPLIERS)
    scale = next((float(factor) for factor in factors if isinstance(factor, (int, float))), 1.0)
    logits_scaling = getattr(config, "logits_scaling", None)
    if logits_scaling is not None:
        scale = logits_scaling if config.model_type == "hyperclovax" else 1.0 / logits_scaling
    return Head(
        weight_VD=_whole(head.weight),
        bias_V=None if head.bias is None else _whole(head.bias),
        softcap=getattr(config, "final_logit_softcapping", None),
        scale=scale,
    )


def labeled_hidden_states(model: Any, batch: dict[str, Tensor]) -> Tensor:  # noqa: ANN401
    """Return the hidden states [T, D] that predict the labeled tokens, in row-major order.

    Args:
        batch: `input_ids` and `labels` [B, L], and either the `attention_mask` of padded rows or
            the `position_ids` of packed ones, which separate the rows.
    """
    names = ("input_ids", "attention_mask", "position_ids")
    inputs = {name: batch[name] for name in names if name in batch}
    hidden_BLD = model.base_model(**inputs, use_cache=False).last_hidden_state
    predicting: Tensor = hidden_BLD[:, :-1][is_labeled(batch)]
    return predicting


def _whole(parameter: Tensor) -> Tensor:
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
