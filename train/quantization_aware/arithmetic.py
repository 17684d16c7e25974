"""Arithmetic that rounds where C does.

In: tensors. Out: tensors, the same on every device.
"""

from __future__ import annotations

import torch
from torch import Tensor


def quotient(dividend: Tensor | float, divisor: Tensor | float) -> Tensor:
    """Return a quotient that is rounded once; at least one of both is a tensor.

    Torch multiplies by a rounded reciprocal if one of them is a plain number: the divisor on a GPU,
    the dividend anywhere.
    """
    device = next(one.device for one in (dividend, divisor) if isinstance(one, Tensor))
    return torch.as_tensor(dividend, device=device) / torch.as_tensor(divisor, device=device)


def as_half(values: Tensor) -> Tensor:
    """Return float32 values rounded to float16."""
    return values.half().float()
