"""Cross-entropy on the teacher's own tokens: sequence-level distillation.

In: the student's log-probabilities of the sampled tokens. Out: nats per token.

Shape legend: T tokens.
"""

from __future__ import annotations

from torch import Tensor


def cross_entropy(sampled_logprobs_T: Tensor) -> Tensor:
    """Return the negative log-likelihood per token [T].

    Source: Kim & Rush 2016, "Sequence-Level Knowledge Distillation", section 3.2.
    """
    return -sampled_logprobs_T
