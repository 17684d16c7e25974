"""The mixed loss from hidden states to one number, a chunk of tokens at a time.

In: hidden states, the head, and the tokens at which the teacher's signal is stored. Out: summed
losses and their gradient. At no time do logits of more than one chunk exist.

The loss sees the student through few numbers: the logits of the stored tokens and of the sampled
one, and the logarithm of the others' summed exponentials, as if all others were one token. So
autograd differentiates a small tensor, and one buffer of a chunk's logits serves all chunks: it
receives the product, gives up the stored tokens' logits, and its softmax over what is left says how
the slope of "all others" is shared out among them. The student's tail mass comes out of that sum,
never as 1 - Q, so that it is exact however small it is.

The gradient of the hidden states is that softmax times the head's weights, scaled row by row, and
the weights' rows of the few tokens times their slopes.

Shape legend: T tokens, C tokens of one chunk, K stored entries, W 1 + K single tokens (the sampled
one first), V vocabulary, D width of the hidden states.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
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
"""Added to the logits of stored tokens: nothing of them is left in the softmax of the others, and
where no other is left, nothing becomes NaN."""


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


@dataclass(frozen=True)
class LossSums:
    """Sums over tokens, in nats: the mix (differentiable) and its two parts."""

    total: Tensor
    divergence: Tensor
    """0 where its weight is 0: it is not computed then."""
    cross_entropy: Tensor


def distillation_loss(hidden_TD: Tensor, head: Head, targets: Targets, mix: Mix) -> LossSums:
    """Sum weight · divergence + (1 - weight) · cross-entropy over T tokens.

    The factors of products are rounded to autocast's precision where it is on; all else, logits and
    sums included, is float32 (float64 for float64 inputs). Gradients are formed only where they are
    required: none for a frozen head.
    """
    inputs: tuple[Tensor | None, ...] = (hidden_TD, head.weight_VD, head.bias_V)
    if not torch.is_grad_enabled():
        inputs = tuple(None if one is None else one.detach() for one in inputs)
    apply: Any = _ChunkedLoss.apply
    return LossSums(*apply(*inputs, head, targets, mix))


class _ChunkedLoss(torch.autograd.Function):
    """Gradients are formed in the forward pass, while each chunk's softmax is at hand."""

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
        rounded = _autocast_dtype(hidden_TD)
        wide = torch.promote_types(rounded, torch.float32)
        factor = rounded if hidden_TD.is_cuda else wide
        gradients = [
            torch.zeros_like(tensor, dtype=wide)
            if tensor is not None and tensor.requires_grad
            else None
            for tensor in (hidden_TD, weight_VD, bias_V)
        ]
        sums = hidden_TD.new_zeros(3, dtype=wide)
        buffer_CV = sums.new_empty(min(len(hidden_TD), mix.chunk_tokens), len(weight_VD))
        with torch.autocast(hidden_TD.device.type, enabled=False), _rounded_factors(rounded):
            factor_VD = weight_VD.to(factor)
            for start in range(0, len(hidden_TD), mix.chunk_tokens):
                part = slice(start, start + mix.chunk_tokens)
                hidden_CD = hidden_TD[part].to(factor)
                logits_CV = _multiply(hidden_CD, factor_VD.t(), buffer_CV[: len(hidden_CD)])
                chunk = _loss_and_slopes(head.finish_(logits_CV), head, targets[part], mix)
                sums += chunk.sums
                _add_gradients(gradients, part, chunk, hidden_CD, factor_VD)
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
        scaled = (None if one is None else scale * one for one in ctx.saved_tensors)
        return (*scaled, None, None, None)


@dataclass(frozen=True)
class _Slopes:
    """Loss sums of a chunk, and their slopes in the products of head and hidden states.

    The slope of token j is `rest_C1 * softmax_CV[:, j]`, and `single_CW` is added at `ids_CW`.
    """

    sums: Tensor
    ids_CW: Tensor
    single_CW: Tensor
    rest_C1: Tensor
    softmax_CV: Tensor


def _loss_and_slopes(logits_CV: Tensor, head: Head, targets: Targets, mix: Mix) -> _Slopes:
    """Return the losses of C tokens and their slopes, in the logits' memory."""
    num_stored = targets.top_token_ids_TK.shape[1] if mix.weight else 0
    top_ids_CK = targets.top_token_ids_TK[:, :num_stored]
    stored_CK = top_ids_CK >= 0
    ids_CW = torch.cat([targets.token_ids_T[:, None], top_ids_CK.clamp_min(0)], dim=1)
    single_CW = logits_CV.gather(-1, ids_CW)
    bend_CW = head.slope(single_CW)
    bend_CV = None if head.softcap is None else head.slope(logits_CV)
    rest_C1 = _leave_others_(logits_CV, ids_CW[:, 1:], stored_CK)
    leaves = (single_CW.requires_grad_(), rest_C1.requires_grad_())
    with torch.enable_grad():
        sums = _losses(*leaves, stored_CK, targets, mix)
        slope_CW, slope_C1 = torch.autograd.grad(sums[0], leaves)
    if bend_CV is None:
        slope_C1 *= head.scale
    else:
        logits_CV *= bend_CV
    return _Slopes(sums.detach(), ids_CW, slope_CW * bend_CW, slope_C1, logits_CV)


def _leave_others_(logits_CV: Tensor, ids_CK: Tensor, stored_CK: Tensor) -> Tensor:
    """Turn logits into the softmax of the tokens not stored; return their log-sum-exp [C, 1]."""
    logits_CV.scatter_add_(-1, ids_CK, stored_CK * logits_CV.new_tensor(TAKEN))
    largest_C1 = logits_CV.amax(-1, keepdim=True)
    torch.softmax(logits_CV, -1, out=logits_CV)
    rest_C1 = largest_C1 - logits_CV.amax(-1, keepdim=True).log_()
    return rest_C1.masked_fill_(largest_C1 < TAKEN / 2, -torch.inf)


def _losses(
    single_CW: Tensor, rest_C1: Tensor, stored_CK: Tensor, targets: Targets, mix: Mix
) -> Tensor:
    """Return the sums over C tokens of the mix, the divergence and cross-entropy."""
    stored_logits_CK = single_CW[:, 1:].masked_fill(~stored_CK, -torch.inf)
    all_CX = torch.cat([stored_logits_CK, rest_C1], dim=-1)
    normaliser_C1 = torch.logsumexp(all_CX, dim=-1, keepdim=True)
    logq_sampled_C = (single_CW[:, :1] - normaliser_C1)[:, 0]
    entropy = cross_entropy(logq_sampled_C).sum()
    if not mix.weight:
        return torch.stack([entropy, torch.zeros_like(entropy), entropy])
    is_sampled_CK = targets.top_token_ids_TK == targets.token_ids_T[:, None]
    rows = Rows(
        stored_CK=stored_CK,
        logp_CK=targets.top_logprobs_TK.to(single_CW.dtype),
        logq_CK=stored_logits_CK - normaliser_C1,
        logq_rest_C=(rest_C1 - normaliser_C1)[:, 0],
        sampled_is_stored_C=is_sampled_CK.any(-1),
        logp_sampled_C=targets.sampled_logprobs_T.to(single_CW.dtype),
        logq_sampled_C=logq_sampled_C,
    )
    outcomes = mix.tail(rows)
    terms_CO = outcomes.weight_CO * mix.divergence(outcomes.logp_CO, outcomes.logq_CO)
    divergence = terms_CO.sum()
    return torch.stack(
        [mix.weight * divergence + (1.0 - mix.weight) * entropy, divergence, entropy]
    )


def _add_gradients(
    gradients: list[Tensor | None],
    part: slice,
    slopes: _Slopes,
    hidden_CD: Tensor,
    factor_VD: Tensor,
) -> None:
    to_hidden_TD, to_weight_VD, to_bias_V = gradients
    softmax_CV = slopes.softmax_CV
    if to_hidden_TD is not None:
        to_hidden_CD = _multiply(softmax_CV, factor_VD, to_hidden_TD[part]).mul_(slopes.rest_C1)
        weights_CW = slopes.single_CW.to(factor_VD.dtype)
        to_hidden_CD += embedding_bag(
            slopes.ids_CW, factor_VD, per_sample_weights=weights_CW, mode="sum"
        )
    if to_weight_VD is None and to_bias_V is None:
        return
    slope_CV = softmax_CV.mul_(slopes.rest_C1).scatter_add_(-1, slopes.ids_CW, slopes.single_CW)
    if to_weight_VD is not None:
        if factor_VD.dtype == to_weight_VD.dtype:
            to_weight_VD.addmm_(slope_CV.t(), hidden_CD)
        else:
            to_weight_VD += _multiply(slope_CV.t(), hidden_CD, torch.empty_like(to_weight_VD))
    if to_bias_V is not None:
        to_bias_V += slope_CV.sum(0)


def _multiply(left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    """Write the product into `out`; where its factors are narrower, it is not rounded to them."""
    if right.dtype == out.dtype:
        return torch.mm(left, right, out=out)
    return torch.mm(left.to(right.dtype), right, out_dtype=out.dtype, out=out)


@contextlib.contextmanager
def _rounded_factors(dtype: torch.dtype) -> Iterator[None]:
    """Let a CPU round the factors of float32 products to bfloat16, for an autocast to that.

    It is as fast as a product of bfloat16 tensors, needs no copies of them, and its result is
    float32. Where a CPU does not multiply bfloat16, nothing changes.
    """
    products: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = products.fp32_precision
    if dtype == torch.bfloat16:
        products.fp32_precision = "bf16"
    try:
        yield
    finally:
        products.fp32_precision = before


def _autocast_dtype(tensor: Tensor) -> torch.dtype:
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype
