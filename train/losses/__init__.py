"""The losses of distillation, one family per file, and the registry of token-level divergences.

In: log-probabilities as tensors. Out: losses per token. A family knows neither where the teacher's
signal came from nor that it is summed in chunks; `chunked` knows no family.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from train.losses.forward_kl import forward_kl

Divergence = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(student_logprobs_TK, teacher_logprobs_TK, stored_TK) -> loss_T, differentiable in the first."""

DIVERGENCES: Mapping[str, Divergence] = {"forward_kl": forward_kl}
