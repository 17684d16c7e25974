"""Kullback-Leibler divergences of teacher and student, one outcome at a time.

In: finite log-probabilities of the same outcomes. Out: what each outcome adds, in nats.
"""

from __future__ import annotations

from torch import Tensor


def forward_kl(logp: Tensor, logq: Tensor) -> Tensor:
    """Return p log(p/q): forward KL(teacher‖student), which covers all that the teacher says.

    Args:
        logp: The teacher's log-probabilities, in nats.
        logq: The student's, of the same shape.

    Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2, less the
        teacher's entropy, which no student changes.
    """
    return logp.exp() * (logp - logq)


def reverse_kl(logp: Tensor, logq: Tensor) -> Tensor:
    """Return q log(q/p): reverse KL(student‖teacher), which avoids all that the teacher does not.

    Source: Gu et al. 2024, "MiniLLM: Knowledge Distillation of Large Language Models", equation 1.
    """
    return logq.exp() * (logq - logp)
