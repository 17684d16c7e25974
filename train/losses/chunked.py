"""The mixed loss from hidden states to one number, a chunk of tokens at a time.

In: hidden states, the head's weights, and the tokens at which the teacher's signal is stored. Out:
summed losses and their gradient. At no time do logits of more than one chunk exist.

A loss that sees the student only through log-probabilities gathered at a few ids has, with
g_i = dL/d logq_i, the gradient dL/dz_j = sum_i g_i (1[i = j] - q_j) in the logits: a scatter minus
a multiple of the softmax. So a family differentiates a [T, K] tensor, and one buffer of a chunk's
logits serves as logits, as softmax and as gradient in turn.

Shape legend: T tokens, C tokens of one chunk, K stored entries, W 1 + K gathered entries (the
sampled token first), V vocabulary, D width of the hidden states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from train.losses import Divergence
from train.losses.cross_entropy import cross_entropy


@dataclass(frozen=True)
class Targets:
    """The teacher's signal for T tokens."""

    token_ids_T: Tensor
    """int64 ids of the teacher's tokens."""
    top_token_ids_TK: Tensor
    """int64 ids of the stored tokens; -1 where a row has fewer."""
    top_logprobs_TK: Tensor
    """Their log-probabilities in nats; any value where the id is -1."""


@dataclass(frozen=True)
class Mix:
    """How the two losses are mixed, and how many tokens' logits exist at once."""

    divergence: Divergence
    weight: float
    chunk_tokens: int


@dataclass(frozen=True)
class LossSums:
    """Sums over tokens, in nats: the mix (differentiable) and its two parts."""

    total: Tensor
    divergence: Tensor
    cross_entropy: Tensor


def distillation_loss(
    hidden_TD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets: Targets, mix: Mix
) -> LossSums:
    """Sum weight · divergence + (1 - weight) · cross-entropy over T tokens.

    Products are made in autocast's precision where it is on, sums and log-softmax in float32 (in
    float64 for float64 inputs). The head's weight gradient is formed only if it is required.
    """
    apply: Any = _ChunkedLoss.apply
    total, divergence, entropy = apply(hidden_TD, weight_VD, bias_V, targets, mix)
    return LossSums(total, divergence, entropy)


class _ChunkedLoss(torch.autograd.Function):
    """Gradients are formed in the forward pass, while each chunk's softmax is at hand."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  (untyped library)
        hidden_TD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets: Targets,
        mix: Mix,
    ) -> tuple[Tensor, Tensor, Tensor]:
        gradients = [
            torch.zeros_like(tensor, dtype=_wide(tensor.dtype))
            if tensor is not None and tensor.requires_grad
            else None
            for tensor in (hidden_TD, weight_VD, bias_V)
        ]
        sums = hidden_TD.new_zeros(3, dtype=_wide(hidden_TD.dtype))
        compute = _compute_dtype(hidden_TD)
        with torch.autocast(hidden_TD.device.type, enabled=False):
            head_VD = weight_VD.to(compute)
            for start in range(0, hidden_TD.shape[0], mix.chunk_tokens):
                part = slice(start, start + mix.chunk_tokens)
                hidden_CD = hidden_TD[part].to(compute)
                logits_CV = torch.mm(hidden_CD, head_VD.t()).to(sums.dtype)
                if bias_V is not None:
                    logits_CV += bias_V.to(sums.dtype)
                chunk_sums, gradient_CV = _loss_and_gradient(logits_CV, targets, part, mix)
                sums += chunk_sums
                _add_gradients(gradients, part, gradient_CV, hidden_CD, head_VD)
        ctx.save_for_backward(*gradients)
        total, divergence, entropy = sums.unbind()
        ctx.mark_non_differentiable(divergence, entropy)
        return total, divergence, entropy

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401  (untyped library)
        scale: Tensor,
        *_unused: Tensor,
    ) -> tuple[Tensor | None, ...]:
        return (*(None if one is None else scale * one for one in ctx.saved_tensors), None, None)


def _loss_and_gradient(
    logits_CV: Tensor, targets: Targets, part: slice, mix: Mix
) -> tuple[Tensor, Tensor]:
    """Return [total, divergence, cross-entropy] and the total's gradient, in the logits' memory."""
    top_ids_CK = targets.top_token_ids_TK[part]
    stored_CK = top_ids_CK >= 0
    ids_CW = torch.cat([targets.token_ids_T[part, None], top_ids_CK.clamp_min(0)], dim=1)
    log_normaliser_C1 = torch.logsumexp(logits_CV, dim=-1, keepdim=True)
    gathered_CW = (logits_CV.gather(-1, ids_CW) - log_normaliser_C1).detach().requires_grad_()
    teacher_CK = targets.top_logprobs_TK[part].to(logits_CV.dtype)
    with torch.enable_grad():
        entropy = cross_entropy(gathered_CW[:, 0]).sum()
        divergence = mix.divergence(gathered_CW[:, 1:], teacher_CK, stored_CK).sum()
        total = mix.weight * divergence + (1.0 - mix.weight) * entropy
        (slope_CW,) = torch.autograd.grad(total, gathered_CW)
    gradient_CV = logits_CV.sub_(log_normaliser_C1).exp_()
    gradient_CV.mul_(-slope_CW.sum(-1, keepdim=True)).scatter_add_(-1, ids_CW, slope_CW)
    return torch.stack([total, divergence, entropy]).detach(), gradient_CV


def _add_gradients(
    gradients: list[Tensor | None],
    part: slice,
    gradient_CV: Tensor,
    hidden_CD: Tensor,
    head_VD: Tensor,
) -> None:
    to_hidden_TD, to_weight_VD, to_bias_V = gradients
    narrow_CV = gradient_CV.to(head_VD.dtype)
    if to_hidden_TD is not None:
        to_hidden_TD[part] = torch.mm(narrow_CV, head_VD)
    if to_weight_VD is not None:
        to_weight_VD += torch.mm(narrow_CV.t(), hidden_CD)
    if to_bias_V is not None:
        to_bias_V += gradient_CV.sum(0)


def _compute_dtype(tensor: Tensor) -> torch.dtype:
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
