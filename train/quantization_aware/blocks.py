"""Weights quantized as by ggml's reference code, and dequantized.

In: a matrix of weights whose rows are cut into blocks. Out: the dequantized values of its blocks,
bit for bit those of ggml.

Source: `quantize_row_*_ref` and `dequantize_row_*` in ggml/src/ggml-quants.c, llama.cpp 0c1e57098.
Every rounding must be the same: a weight near the middle of two steps would otherwise get the wrong
one.

Shape legend: R rows, C columns, N blocks of L values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from train.quantization_aware.arithmetic import as_half, quotient
from train.quantization_aware.super_blocks import SUPER_BLOCK_LENGTH, six_bits

BLOCK_LENGTH = 32
CHUNK_VALUES = 2**18
"""Values that a CPU processes at once, few enough for its cache."""


@dataclass(frozen=True)
class BlockType:
    """A type of blocks."""

    length: int
    """Values in a block; a row is made of whole blocks."""
    round_trip: Callable[[Tensor], Tensor]
    """Quantizes and dequantizes blocks [N, L] in float32."""


@torch.no_grad()
def read_back(weights_RC: Tensor, type_name: str) -> Tensor:
    """Return float32 weights [R, C] as a file of the type holds them.

    Files are made from weights in F16, so the weights are rounded to it first.

    Args:
        weights_RC: On any device.
        type_name: A key of BLOCK_TYPES, or "F16". Rows must be of whole blocks.
    """
    halves_RC = weights_RC.half()
    if type_name == "F16":
        return halves_RC.float()
    block_type = BLOCK_TYPES[type_name]
    halves_NL = halves_RC.reshape(-1, block_type.length)
    read_NL = torch.empty_like(halves_NL, dtype=torch.float32)
    num_at_once = len(halves_NL)
    if halves_NL.device.type == "cpu":
        num_at_once = CHUNK_VALUES // block_type.length
    for start in range(0, len(halves_NL), num_at_once):
        part = slice(start, start + num_at_once)
        read_NL[part] = block_type.round_trip(halves_NL[part].float())
    return read_NL.view(weights_RC.shape)


def _symmetric(half_steps: int, values_NL: Tensor) -> Tensor:
    """Q4_0 and Q5_0: steps around zero, the value of largest magnitude at the lowest of them."""
    step_N1 = quotient(_of_largest_magnitude(values_NL), -half_steps)
    stored_N1 = as_half(step_N1)
    levels_NL = values_NL * _inverse(step_N1)
    levels_NL.add_(half_steps + 0.5).floor_().clamp_(max=2 * half_steps - 1).sub_(half_steps)
    return levels_NL.mul_(stored_N1)


def _affine(num_steps: int, values_NL: Tensor) -> Tensor:
    """Q4_1 and Q5_1: steps from the smallest value to the largest."""
    low_N1, high_N1 = values_NL.aminmax(dim=-1, keepdim=True)
    step_N1 = quotient(high_N1 - low_N1, num_steps)
    levels_NL = (values_NL - low_N1).mul_(_inverse(step_N1))
    levels_NL.add_(0.5).floor_().clamp_(max=num_steps)
    return levels_NL.mul_(as_half(step_N1)).add_(as_half(low_N1))


def _eight_bits(values_NL: Tensor) -> Tensor:
    """Q8_0: 127 steps to either side, halves rounded away from zero."""
    step_N1 = quotient(values_NL.abs().amax(-1, keepdim=True), 127)
    levels_NL = values_NL * _inverse(step_N1)
    whole_NL = levels_NL.trunc()
    levels_NL.sub_(whole_NL).mul_(2).trunc_().add_(whole_NL)
    return levels_NL.mul_(as_half(step_N1))


def _of_largest_magnitude(values_NL: Tensor) -> Tensor:
    """Return each block's value of largest magnitude [N, 1]: the first one of several."""
    low_N1, high_N1 = values_NL.aminmax(dim=-1, keepdim=True)
    largest_N1 = torch.where(high_N1 > -low_N1, high_N1, low_N1)
    tied_N = (high_N1 == -low_N1)[:, 0]
    if tied_N.any():
        tied_ML = values_NL[tied_N]
        largest_N1[tied_N] = tied_ML.gather(-1, tied_ML.abs().argmax(-1, keepdim=True))
    return largest_N1


def _inverse(step_N1: Tensor) -> Tensor:
    """Return the steps' inverse; 0 for steps that are stored as 0, whose levels do not matter."""
    return torch.where(as_half(step_N1) == 0.0, 0.0, step_N1.reciprocal())


BLOCK_TYPES = {
    "Q4_0": BlockType(BLOCK_LENGTH, partial(_symmetric, 8)),
    "Q4_1": BlockType(BLOCK_LENGTH, partial(_affine, 15)),
    "Q5_0": BlockType(BLOCK_LENGTH, partial(_symmetric, 16)),
    "Q5_1": BlockType(BLOCK_LENGTH, partial(_affine, 31)),
    "Q6_K": BlockType(SUPER_BLOCK_LENGTH, six_bits),
    "Q8_0": BlockType(BLOCK_LENGTH, _eight_bits),
}
