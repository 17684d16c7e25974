"""Q6_K: 256 values share a scale, and every 16 of them an 8-bit scale.

In: blocks of weights. Out: their dequantized values, bit for bit those of ggml.

Source: `make_qx_quants`, `quantize_row_q6_K_ref` and `dequantize_row_q6_K` in
ggml/src/ggml-quants.c, llama.cpp 0c1e57098.

Shape legend: N super-blocks of L = 256 values, G = 16 groups in each, M = N · G groups of E = 16
values.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from train.quantization_aware.arithmetic import as_half, quotient

SUPER_BLOCK_LENGTH = 256
GROUP_LENGTH = 16
HALF_STEPS = 32
NUM_SCALE_STEPS = 128
TRIALS = (*range(-9, 0), *range(1, 10))
"""Tenths of a step by which the first guess of a group's scale is varied."""
SMALLEST = 1e-15
"""`GROUP_MAX_EPS`: a group whose values are all smaller is stored as zero."""


def six_bits(values_NL: Tensor) -> Tensor:
    """Return blocks [N, 256] as Q6_K holds them."""
    values_ME = values_NL.reshape(-1, GROUP_LENGTH)
    scales_NG = _group_scales(values_ME).view(len(values_NL), -1)
    largest_N1 = scales_NG.gather(-1, scales_NG.abs().argmax(-1, keepdim=True))
    inverse_N1 = quotient(-NUM_SCALE_STEPS, largest_N1)
    shared_N1 = as_half(inverse_N1.reciprocal())
    levels_NG = (inverse_N1 * scales_NG).round_().clamp_(max=NUM_SCALE_STEPS - 1)
    scales_NG = (shared_N1 * levels_NG).masked_fill_(largest_N1.abs() < SMALLEST, 0.0)
    scales_M1 = scales_NG.view(-1, 1)
    levels_ME = _levels(values_ME / scales_M1)
    return (scales_M1 * levels_ME).masked_fill_(scales_M1 == 0.0, 0.0).view(values_NL.shape)


def _group_scales(values_ME: Tensor) -> Tensor:
    """Return the scale [M] of each group with the least weighted error of those tried."""
    largest_M1 = values_ME.gather(-1, values_ME.abs().argmax(-1, keepdim=True))
    products_M, squares_M = _fit(values_ME, quotient(-HALF_STEPS, largest_M1))
    scales_M = torch.where(squares_M == 0.0, 0.0, products_M / squares_M)
    best_M = scales_M * products_M
    for tenths in TRIALS:
        steps = float(np.float32(HALF_STEPS) + np.float32(0.1) * np.float32(tenths))
        products_M, squares_M = _fit(values_ME, quotient(-steps, largest_M1))
        better_M = (squares_M > 0.0) & (products_M * products_M > best_M * squares_M)
        scales_M = torch.where(better_M, products_M / squares_M, scales_M)
        best_M = torch.where(better_M, scales_M * products_M, best_M)
    return scales_M.masked_fill_(largest_M1[:, 0].abs() < SMALLEST, 0.0)


def _fit(values_ME: Tensor, inverse_M1: Tensor) -> tuple[Tensor, Tensor]:
    """Return Σ w·x·l and Σ w·l² of each group, for its levels l at a scale, weighted by w = x².

    They are summed in ggml's order.
    """
    levels_ME = _levels(values_ME * inverse_M1)
    weights_ME = values_ME * values_ME
    products_ME = weights_ME * values_ME * levels_ME
    squares_ME = weights_ME * levels_ME * levels_ME
    products_M, squares_M = products_ME[:, 0].clone(), squares_ME[:, 0].clone()
    for column in range(1, GROUP_LENGTH):
        products_M += products_ME[:, column]
        squares_M += squares_ME[:, column]
    return products_M, squares_M


def _levels(values: Tensor) -> Tensor:
    return values.round_().clamp_(-HALF_STEPS, HALF_STEPS - 1)
