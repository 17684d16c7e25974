"""The mixed loss from hidden states to one number, a chunk of tokens at a time.

In: hidden states, the head, and the tokens at which the teacher's signal is stored. Out: summed
losses and their gradient. Logits exist for one chunk at a time.

The loss depends on few numbers per token: the logits of the stored tokens and of the sampled one,
and the log-sum-exp of all others, as if these were one token. So autograd differentiates a small
tensor, and one buffer of a chunk's logits serves all chunks: it receives the product, the stored
tokens' logits are removed from it, and the softmax over the rest distributes the slope of "all
others" among them. The student's tail mass is computed from that log-sum-exp, never as 1 - Q, so
that it is exact even if it is small.

The gradient of the hidden states is that softmax times the head's weights, scaled row by row, and
the weights' rows of the few tokens times their slopes.

Shape legend: T tokens, C tokens of one chunk, R tokens of a chunk's block, K stored entries, W 1 +
K single tokens (the sampled one first), V vocabulary, D width of the hidden states.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from train.heads import Head
from train.losses import Mix
from train.losses.cross_entropy import cross_entropy
from train.losses.tails import Rows

TAKEN = -1e30
"""Added to the logits of stored tokens, which removes them from the softmax of the others without
NaN where there is no other token."""
BLOCK_LOGITS = 2**19
"""Logits per thread that are copied to float32, or multiplied by a soft-cap's derivative, at once.
Their 2 MB stay in a processor's cache from one operation to the next; smaller blocks make threads
wait for one another more often."""


@dataclass(frozen=True)
class Targets:
    """The teacher's signal for T tokens."""

    token_ids_T: Tensor
    """int64 ids of the teacher's tokens."""
    sampled_logprobs_T: Tensor
    """Their log-probabilities in nats."""
    top_token_ids_TK: Tensor
    """int64 ids of the stored tokens, each at most once in a row; -1 where a row has fewer."""
    top_logprobs_TK: Tensor
    """Their log-probabilities in nats; any value where the id is -1."""

    def __getitem__(self, part: slice) -> Targets:
        return Targets(*(getattr(self, field.name)[part] for field in fields(self)))

    def to(self, device: torch.device) -> Targets:
        """Return the targets on a device."""
        return Targets(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True)
class LossSums:
    """Sums over tokens, in nats: the mix (differentiable) and its two parts."""

    total: Tensor
    divergence: Tensor
    """0 if its weight is 0, for which it is not computed."""
    cross_entropy: Tensor


@torch.compiler.disable  # type: ignore[untyped-decorator]
def distillation_loss(hidden_TD: Tensor, head: Head, targets: Targets, mix: Mix) -> LossSums:
    """Sum weight · divergence + (1 - weight) · cross-entropy over T tokens.

    Products are made in autocast's precision where it is on, everything else in float32 (float64
    for float64 inputs). Only required gradients are computed: none for a frozen head. torch.compile
    leaves it as it is: Dynamo in torch 2.13 does not trace the gradient that it takes on the way.
    """
    inputs: tuple[Tensor | None, ...] = (hidden_TD, head.weight_VD, head.bias_V)
    if not torch.is_grad_enabled():
        inputs = tuple(None if one is None else one.detach() for one in inputs)
    apply: Any = _ChunkedLoss.apply
    return LossSums(*apply(*inputs, head, targets, mix))


class _ChunkedLoss(torch.autograd.Function):
    """Computes gradients in the forward pass, while each chunk's softmax is in memory."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  (untyped library)
        hidden_TD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        head: Head,
        targets: Targets,
        mix: Mix,
    ) -> tuple[Tensor, ...]:
        narrow = _product_dtype(hidden_TD)
        wide = torch.promote_types(narrow, torch.float32)
        to_hidden_TD, to_weight_VD, to_bias_V = (
            torch.zeros_like(tensor, dtype=wide)
            if tensor is not None and tensor.requires_grad
            else None
            for tensor in (hidden_TD, weight_VD, bias_V)
        )
        sums = hidden_TD.new_zeros(3, dtype=wide)
        num_tokens = len(hidden_TD)
        buffer_CV = hidden_TD.new_empty(
            (min(num_tokens, mix.chunk_tokens), len(weight_VD)), dtype=narrow
        )
        with torch.autocast(hidden_TD.device.type, enabled=False):
            narrow_VD = weight_VD.to(narrow)
            for start in range(0, num_tokens, mix.chunk_tokens):
                part = slice(start, start + mix.chunk_tokens)
                hidden_CD = hidden_TD[part].to(narrow)
                product_CV = torch.mm(hidden_CD, narrow_VD.t(), out=buffer_CV[: len(hidden_CD)])
                chunk_sums, slopes = _differentiate(product_CV, wide, head, targets[part], mix)
                sums += chunk_sums
                if to_hidden_TD is not None:
                    to_hidden_TD[part] = _hidden_gradient(slopes, weight_VD, narrow_VD)
                _add_head_gradients(to_weight_VD, to_bias_V, slopes, hidden_CD)
        ctx.save_for_backward(to_hidden_TD, to_weight_VD, to_bias_V)
        total, divergence, entropy = sums.unbind()
        ctx.mark_non_differentiable(divergence, entropy)
        return total, divergence, entropy

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401  (untyped library)
        scale: Tensor,
        *_unused: Tensor,
    ) -> tuple[Tensor | None, ...]:
        scaled = (None if one is None else scale * one for one in ctx.saved_tensors)
        return (*scaled, None, None, None)


@dataclass(frozen=True)
class _Slopes:
    """Derivatives of the loss by a chunk's products of head and hidden states.

    By the product of token j the derivative is `rest_C1 * others_CV[:, j]`, to which `single_CW` is
    added at `ids_CW`.
    """

    ids_CW: Tensor
    single_CW: Tensor
    rest_C1: Tensor
    others_CV: Tensor


def _differentiate(
    product_CV: Tensor, wide: torch.dtype, head: Head, targets: Targets, mix: Mix
) -> tuple[Tensor, _Slopes]:
    """Return a chunk's loss sums and slopes; the product's memory becomes the slopes'."""
    num_stored = targets.top_token_ids_TK.shape[1] if mix.weight else 0
    top_ids_CK = targets.top_token_ids_TK[:, :num_stored]
    stored_CK = top_ids_CK >= 0
    ids_CW = torch.cat([targets.token_ids_T[:, None], top_ids_CK.clamp_min(0)], dim=1)
    single_CW, rest_C1 = _take_apart_(product_CV, wide, head, ids_CW, stored_CK)
    leaves = (single_CW.requires_grad_(), rest_C1.requires_grad_())
    with torch.enable_grad():
        sums = _losses(*leaves, stored_CK, targets, mix)
        slopes = torch.autograd.grad(sums[0], leaves)
    slope_CW, slope_C1 = (head.scale * slope for slope in slopes)
    if head.softcap is not None:
        slope_CW *= head.bend(single_CW.detach())
    return sums.detach(), _Slopes(ids_CW, slope_CW, slope_C1, product_CV)


def _take_apart_(
    product_CV: Tensor, wide: torch.dtype, head: Head, ids_CW: Tensor, stored_CK: Tensor
) -> tuple[Tensor, Tensor]:
    """Separate the stored tokens from all others.

    Args:
        product_CV: Products of head and hidden states. Overwritten by the softmax of the tokens not
            stored, each times the derivative of its soft-cap.

    Returns:
        The logits of single tokens [C, W], and the log-sum-exp of those not stored [C, 1].
    """
    num_rows = _block_rows(product_CV, wide, head)
    taken_CK = stored_CK * torch.tensor(TAKEN, dtype=wide, device=product_CV.device)
    scratch_RV = None
    if product_CV.dtype != wide:
        scratch_RV = torch.empty_like(product_CV[:num_rows], dtype=wide)
    single, largest, share = [], [], []
    blocks = (torch.split(tensor, num_rows) for tensor in (product_CV, ids_CW, taken_CK))
    for block_RV, ids_RW, taken_RK in zip(*blocks, strict=True):
        logits_RV = block_RV if scratch_RV is None else scratch_RV[: len(block_RV)].copy_(block_RV)
        head.finish_(logits_RV)
        bend_RV = None if head.softcap is None else head.bend(logits_RV)
        single.append(logits_RV.gather(-1, ids_RW))
        logits_RV.scatter_add_(-1, ids_RW[:, 1:], taken_RK)
        largest.append(logits_RV.amax(-1, keepdim=True))
        torch.softmax(logits_RV, -1, out=logits_RV)
        share.append(logits_RV.amax(-1, keepdim=True))
        if bend_RV is not None:
            logits_RV *= bend_RV
        if scratch_RV is not None:
            block_RV.copy_(logits_RV)
    largest_C1 = torch.cat(largest)
    rest_C1 = largest_C1 - torch.cat(share).log_()
    return torch.cat(single), rest_C1.masked_fill_(largest_C1 < TAKEN / 2, -torch.inf)


def _losses(
    single_CW: Tensor, rest_C1: Tensor, stored_CK: Tensor, targets: Targets, mix: Mix
) -> Tensor:
    """Return the sums over C tokens of the mix, the divergence and cross-entropy."""
    stored_logits_CK = single_CW[:, 1:].masked_fill(~stored_CK, -torch.inf)
    all_CX = torch.cat([stored_logits_CK, rest_C1], dim=-1)
    normalizer_C1 = torch.logsumexp(all_CX, dim=-1, keepdim=True)
    logq_sampled_C = (single_CW[:, :1] - normalizer_C1)[:, 0]
    entropy = cross_entropy(logq_sampled_C).sum()
    if not mix.weight:
        return torch.stack([entropy, torch.zeros_like(entropy), entropy])
    is_sampled_CK = targets.top_token_ids_TK == targets.token_ids_T[:, None]
    rows = Rows(
        stored_CK=stored_CK,
        logp_CK=targets.top_logprobs_TK.to(single_CW.dtype),
        logq_CK=stored_logits_CK - normalizer_C1,
        logq_rest_C=(rest_C1 - normalizer_C1)[:, 0],
        sampled_is_stored_C=is_sampled_CK.any(-1),
        logp_sampled_C=targets.sampled_logprobs_T.to(single_CW.dtype),
        logq_sampled_C=logq_sampled_C,
    )
    outcomes = mix.tail(rows)
    terms_CO = outcomes.weight_CO * mix.divergence(outcomes.logp_CO, outcomes.logq_CO)
    divergence = terms_CO.sum()
    total = mix.weight * divergence + (1.0 - mix.weight) * entropy
    return torch.stack([total, divergence, entropy])


def _hidden_gradient(slopes: _Slopes, weight_VD: Tensor, narrow_VD: Tensor) -> Tensor:
    others_CD = torch.mm(slopes.others_CV, narrow_VD)
    single_CW = slopes.single_CW.to(weight_VD.dtype)
    singles_CD = embedding_bag(slopes.ids_CW, weight_VD, per_sample_weights=single_CW, mode="sum")
    return torch.addcmul(singles_CD, others_CD, slopes.rest_C1)


def _add_head_gradients(
    to_weight_VD: Tensor | None, to_bias_V: Tensor | None, slopes: _Slopes, hidden_CD: Tensor
) -> None:
    """Add a chunk's gradients of the head's weights and bias; overwrites the slopes."""
    if to_weight_VD is None and to_bias_V is None:
        return
    slope_CV = slopes.others_CV.mul_(slopes.rest_C1)
    slope_CV.scatter_add_(-1, slopes.ids_CW, slopes.single_CW.to(slope_CV.dtype))
    if to_weight_VD is not None and to_weight_VD.dtype == slope_CV.dtype:
        to_weight_VD.addmm_(slope_CV.t(), hidden_CD)
    elif to_weight_VD is not None:
        to_weight_VD += torch.mm(slope_CV.t(), hidden_CD)
    if to_bias_V is not None:
        to_bias_V += slope_CV.sum(0, dtype=to_bias_V.dtype)


def _block_rows(product_CV: Tensor, wide: torch.dtype, head: Head) -> int:
    """Return the number of tokens processed at once: all, unless that doubles the memory."""
    num_tokens, vocab_size = product_CV.shape
    in_place = product_CV.dtype == wide and head.softcap is None
    if in_place or product_CV.device.type != "cpu":
        return max(num_tokens, 1)
    return torch.get_num_threads() * max(BLOCK_LOGITS // vocab_size, 1)


def _product_dtype(tensor: Tensor) -> torch.dtype:
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype
