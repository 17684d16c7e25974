"""KL divergences from a skewed mixture of teacher and student, one outcome at a time.

In: finite log-probabilities of the same outcomes. Out: each outcome's contribution, in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from train.losses.kl import forward_kl


def skew_kl(skew: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return KL(p‖skew p + (1 - skew) q), whose gradient stays small where the student gives 0.

    Args:
        skew: The teacher's share of the mixture, between 0 and 1, both excluded.

    Source: Ko et al. 2024, "DistiLLM: Towards Streamlined Distillation for Large Language Models",
        section 3.1, D_SKL.
    """

    def divergence(logp: Tensor, logq: Tensor) -> Tensor:
        return forward_kl(logp, _mixture(logp, logq, skew))

    return divergence


def skew_reverse_kl(skew: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return KL(q‖(1 - skew) p + skew q), bounded where the teacher gives 0.

    Args:
        skew: The student's share of the mixture, between 0 and 1, both excluded.

    Source: as `skew_kl`, D_SRKL.
    """

    def divergence(logp: Tensor, logq: Tensor) -> Tensor:
        return forward_kl(logq, _mixture(logq, logp, skew))

    return divergence


def _mixture(log_own: Tensor, log_other: Tensor, share: float) -> Tensor:
    return torch.logaddexp(log_own + math.log(share), log_other + math.log1p(-share))
