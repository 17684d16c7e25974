"""Kullback-Leibler divergences of teacher and student, one outcome at a time.

In: finite log-probabilities of the same outcomes. Out: each outcome's contribution, in nats.
"""

from __future__ import annotations

from torch import Tensor


def forward_kl(logp: Tensor, logq: Tensor) -> Tensor:
    """Return p log(p/q): forward KL(teacher‖student), which is mode-covering.

    Args:
        logp: The teacher's log-probabilities, in nats.
        logq: The student's, of the same shape.

    Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2, minus the
        teacher's entropy, which is constant.
    """
    return logp.exp() * (logp - logq)


def reverse_kl(logp: Tensor, logq: Tensor) -> Tensor:
    """Return q log(q/p): reverse KL(student‖teacher), which is mode-seeking.

    Source: Gu et al. 2024, "MiniLLM: Knowledge Distillation of Large Language Models", equation 1.
    """
    return logq.exp() * (logq - logp)
