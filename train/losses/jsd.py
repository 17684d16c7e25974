"""Generalized Jensen-Shannon divergence of teacher and student, one outcome at a time.

In: finite log-probabilities of the same outcomes. Out: each outcome's contribution, in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from train.losses.kl import forward_kl


def jsd(beta: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return beta KL(p‖m) + (1 - beta) KL(q‖m) with the mixture m = beta p + (1 - beta) q.

    It approaches 0 as beta approaches 0 or 1; its gradient divided by beta, or by 1 - beta,
    approaches that of forward or reverse KL.

    Args:
        beta: The teacher's weight in the mixture, between 0 and 1, both excluded.

    Source: Agarwal et al. 2024, "On-Policy Distillation of Language Models: Learning from
        Self-Generated Mistakes" (GKD), section 2.
    """

    def divergence(logp: Tensor, logq: Tensor) -> Tensor:
        logm = torch.logaddexp(logp + math.log(beta), logq + math.log1p(-beta))
        return beta * forward_kl(logp, logm) + (1.0 - beta) * forward_kl(logq, logm)

    return divergence
