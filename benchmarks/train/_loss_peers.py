"""Forward KL to a teacher's stored tokens and a bucket for all others, as peers compute it.

Each function returns the sum over T tokens, differentiable in the hidden states. DistillKit's is
written anew from its README (43f6e1b, "Loss functions" and "Missing probability"): logits of all
tokens, then chunk by chunk a log-softmax over the vocabulary, of which the stored tokens are
gathered; "symmetric_uniform" spreads what is missing evenly on both sides, which is the bucket.

Liger's loss has no sparse form. It gets the teacher's hidden states, with the student's head for
the teacher's, and computes the divergence over the whole vocabulary: another figure, and the
nearest that it has.

Shapes: T tokens, K stored entries, D width, V vocabulary.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from train.config import KDConfig
from train.heads import Head
from train.losses import mix_of
from train.losses.chunked import Targets, distillation_loss

CHUNK_TOKENS = 256
SMALLEST_MASS = 1e-7


@dataclass(frozen=True)
class Problem:
    """The inputs of every peer."""

    hidden_TD: Tensor
    weight_VD: Tensor
    top_ids_TK: Tensor
    top_logprobs_TK: Tensor
    teacher_hidden_TD: Tensor
    """For a peer that needs the teacher itself."""


Loss = Callable[[Problem], Tensor]


def potstill() -> Loss:
    """Return this project's."""
    mix = mix_of(KDConfig(weight=1.0, chunk_tokens=CHUNK_TOKENS))

    def loss(given: Problem) -> Tensor:
        ids_TK, logprobs_TK = given.top_ids_TK, given.top_logprobs_TK
        targets = Targets(ids_TK[:, 0], logprobs_TK[:, 0], ids_TK, logprobs_TK)
        return distillation_loss(given.hidden_TD, Head(given.weight_VD), targets, mix).total

    return loss


def full_logits() -> Loss:
    """Return the loss as one would first write it, on logits of all tokens, for autograd."""

    def loss(given: Problem) -> Tensor:
        return _bucket_kl(given.hidden_TD @ given.weight_VD.T, given, slice(None))

    return loss


def distillkit() -> Loss:
    """Return DistillKit's sparse loss."""

    def loss(given: Problem) -> Tensor:
        logits_TV = given.hidden_TD @ given.weight_VD.T
        total = logits_TV.new_zeros((), dtype=torch.float32)
        for start in range(0, len(logits_TV), CHUNK_TOKENS):
            part = slice(start, start + CHUNK_TOKENS)
            total = total + _bucket_kl(logits_TV[part], given, part)
        return total

    return loss


def trl() -> Loss:
    """Return the loss of TRL's AsyncDistillationTrainer, the only sparse one it has."""
    from trl.experimental.async_distillation import async_distillation_trainer as module

    def loss(given: Problem) -> Tensor:
        result: Tensor = module._chunked_jsd_loss(
            hidden_valid=given.hidden_TD,
            lm_head_weight=given.weight_VD,
            lm_head_bias=None,
            logit_scale=1.0,
            final_logit_softcapping=None,
            target_ids=given.top_ids_TK,
            teacher_target_logps=given.top_logprobs_TK,
            valid_candidate_mask=torch.ones_like(given.top_ids_TK, dtype=torch.bool),
            beta=0.0,
            temperature=1.0,
            add_tail_bucket=True,
            teacher_id_idx=None,
            num_teachers=1,
            chunk_size=CHUNK_TOKENS,
        )[0]
        return result

    return loss


def liger(*, compiled: bool) -> Loss:
    """Return Liger's chunked distillation loss.

    Raises:
        ImportError: It is not installed, or needs a compiler that is not there.
    """
    if compiled and not (shutil.which("g++") or shutil.which("clang++")):
        raise ImportError("no C++ compiler for torch.compile")
    from liger_kernel.chunked_loss.jsd_loss import LigerFusedLinearJSDLoss

    module: Any = LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0, compiled=compiled
    )

    def loss(given: Problem) -> Tensor:
        num_tokens, device = len(given.hidden_TD), given.hidden_TD.device
        labels_T = torch.zeros(num_tokens, dtype=torch.int64, device=device)
        weight_VD = given.weight_VD
        mean: Tensor = module(
            given.hidden_TD, weight_VD, given.teacher_hidden_TD, weight_VD, labels_T
        )
        return mean * len(labels_T)

    return loss


PEERS: dict[str, Callable[[], Loss]] = {
    "potstill": potstill,
    "full logits": full_logits,
    "TRL": trl,
    "DistillKit": distillkit,
    "Liger": lambda: liger(compiled=False),
    "Liger, compiled": lambda: liger(compiled=True),
}
SPARSE = ("potstill", "full logits", "TRL", "DistillKit")
"""Those that compute one and the same figure."""


def _bucket_kl(logits_CV: Tensor, given: Problem, part: slice) -> Tensor:
    logq_CV = logits_CV.float().log_softmax(-1)
    logq_CK = logq_CV.gather(-1, given.top_ids_TK[part])
    logp_CK = given.top_logprobs_TK[part]
    p_rest_C, q_rest_C = (
        (1.0 - one.exp().sum(-1)).clamp_min(SMALLEST_MASS) for one in (logp_CK, logq_CK)
    )
    head = (logp_CK.exp() * (logp_CK - logq_CK)).sum()
    return head + (p_rest_C * (p_rest_C.log() - q_rest_C.log())).sum()


def make_problem(
    num_tokens: int, width: int, vocab_size: int, top_k: int, *, device: str = "cpu"
) -> Problem:
    """Draw a student near its teacher, and store the teacher's likeliest tokens."""
    generator = torch.Generator(device).manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    weight_VD = draw(vocab_size, width) * (4.0 / math.sqrt(width))
    teacher_TD, noise_TD = draw(num_tokens, width), draw(num_tokens, width)
    tops = [
        (part_CD @ weight_VD.T).log_softmax(-1).topk(top_k, -1)
        for part_CD in torch.split(teacher_TD, 64)
    ]
    return Problem(
        hidden_TD=teacher_TD + 0.3 * noise_TD,
        weight_VD=weight_VD,
        top_ids_TK=torch.cat([top.indices for top in tops]),
        top_logprobs_TK=torch.cat([top.values for top in tops]),
        teacher_hidden_TD=teacher_TD,
    )
