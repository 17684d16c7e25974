"""Forward KL(teacher‖student) over the stored top K tokens and one bucket for all others.

In: log-probabilities gathered at the stored tokens. Out: nats per token.

Shape legend: T tokens, K stored log-probabilities per token.
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_MASS = 1e-7
"""Bucket masses are clamped to this: float32 rounding must not yield log(0)."""


def forward_kl(
    student_logprobs_TK: Tensor,
    teacher_logprobs_TK: Tensor,
    stored_TK: Tensor,
) -> Tensor:
    """Return the divergence per token [T], a lower bound of the KL over the whole vocabulary.

    The bucket keeps the student's total mass on the other tokens at the teacher's; dropping it
    would reward over-confidence, renormalising likewise.

    Args:
        student_logprobs_TK: The student's log-probabilities of the stored tokens.
        teacher_logprobs_TK: The teacher's.
        stored_TK: True where an entry exists; the others count for nothing.

    Source: sum_K p log(p/q) + (1-P) log((1-P)/(1-Q)), with P and Q the stored tokens' masses; lower
        bound by the data-processing inequality (Cover & Thomas 2006, theorem 2.8.1).
    """
    logq = student_logprobs_TK.masked_fill(~stored_TK, 0.0)
    logp = teacher_logprobs_TK.masked_fill(~stored_TK, 0.0)
    p = logp.exp().masked_fill(~stored_TK, 0.0)
    q = logq.exp().masked_fill(~stored_TK, 0.0)
    p_tail = (1.0 - p.sum(-1)).clamp_min(SMALLEST_MASS)
    q_tail = (1.0 - q.sum(-1)).clamp_min(SMALLEST_MASS)
    head = (p * (logp - logq)).sum(-1)
    return head + p_tail * (torch.log(p_tail) - torch.log(q_tail))
