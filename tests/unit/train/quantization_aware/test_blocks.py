"""Blocks bit by bit as ggml makes them: its library and gguf's own Python are the oracles."""

import ctypes
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import pytest
import torch

from train.quantization_aware.blocks import BLOCK_TYPES, read_back

(LIBRARY,) = Path(llama_cpp.__file__).parent.joinpath("lib").glob("libggml-base.so")
GGUF_TYPES = [name for name in BLOCK_TYPES if name != "Q6_K"]
"""Those that gguf can quantize to."""


@pytest.fixture(scope="module")
def weights():
    """Rows of ordinary weights, and rows that are hard to round."""
    generator = np.random.default_rng(0)
    weights_RC = (generator.standard_normal((400, 512)) * 0.05).astype(np.float32)
    weights_RC[0] = 0.0
    weights_RC[1] = 1.0
    weights_RC[2] = -1.0
    weights_RC[3] *= 1e-6  # scales that are no normal numbers in 16 bits
    weights_RC[4] *= 1e-4
    weights_RC[5] *= 1e5
    weights_RC[6, :40] = 0.0
    weights_RC[7:60] = np.round(weights_RC[7:60] * 40) / 40  # ties: of sign, and of rounding
    weights_RC[60:80, ::7] *= 30.0
    return weights_RC


def as_in_a_base_file(weights_RC):
    return weights_RC.astype(np.float16).astype(np.float32)


def ggml_reads_back(weights_RC, type_name):
    """Return what `ggml_quantize_chunk`, with which llama.cpp writes files, makes of weights."""
    weights_RC = as_in_a_base_file(weights_RC)
    gguf_type = gguf.GGMLQuantizationType[type_name]
    length, num_bytes = gguf.GGML_QUANT_SIZES[gguf_type]
    rows, columns = weights_RC.shape
    blocks = np.zeros((rows, columns // length * num_bytes), dtype=np.uint8)
    quantize = ctypes.CDLL(str(LIBRARY)).ggml_quantize_chunk
    quantize.restype = ctypes.c_size_t
    quantize.argtypes = [
        ctypes.c_int,
        *[ctypes.c_void_p] * 2,
        *[ctypes.c_int64] * 3,
        ctypes.c_void_p,
    ]
    source, target = weights_RC.ctypes.data, blocks.ctypes.data
    assert quantize(int(gguf_type), source, target, 0, rows, columns, None) == blocks.nbytes
    return gguf.dequantize(blocks, gguf_type)


@pytest.mark.parametrize("type_name", BLOCK_TYPES)
def test_blocks_are_those_of_ggml(weights, type_name):
    found = read_back(torch.from_numpy(weights), type_name).numpy()
    np.testing.assert_array_equal(found, ggml_reads_back(weights, type_name))


@pytest.mark.parametrize("type_name", GGUF_TYPES)
def test_blocks_are_those_of_gguf(weights, type_name):
    gguf_type = gguf.GGMLQuantizationType[type_name]
    ordinary = weights[4:]  # gguf divides by scales that are too small for 16 bits
    expected = gguf.dequantize(gguf.quantize(as_in_a_base_file(ordinary), gguf_type), gguf_type)
    np.testing.assert_array_equal(
        read_back(torch.from_numpy(ordinary), type_name).numpy(), expected
    )


@pytest.mark.parametrize("type_name", BLOCK_TYPES)
def test_rows_know_nothing_of_one_another(weights, type_name):
    """So the order in which a file of a Llama has the rows of queries and keys does not matter."""
    order = np.random.default_rng(1).permutation(len(weights))
    whole = read_back(torch.from_numpy(weights), type_name)
    moved = read_back(torch.from_numpy(weights[order]), type_name)
    assert torch.equal(moved, whole[order])


def test_weights_are_rounded_to_16_bits_first():
    weights_RC = torch.full((1, 32), 1.0 + 2.0**-12)
    weights_RC[0, 0] = 127.0
    assert read_back(weights_RC, "F16")[0, 1] == 1.0
    assert read_back(weights_RC, "Q8_0")[0, 1] == 1.0


def test_chunks_make_no_difference(weights, monkeypatch):
    expected = read_back(torch.from_numpy(weights), "Q6_K")
    monkeypatch.setattr("train.quantization_aware.blocks.CHUNK_VALUES", 3 * 256)
    assert torch.equal(read_back(torch.from_numpy(weights), "Q6_K"), expected)


# Q4_0 and Q5_0 read a number back, which `meta` does not have.
@pytest.mark.parametrize("type_name", ["F16", *sorted({*BLOCK_TYPES} - {"Q4_0", "Q5_0"})])
def test_blocks_are_quantized_at_once_on_other_devices(type_name):
    """torch's device `meta`, which computes shapes and types alone, stands in for a GPU."""
    weights_RC = torch.empty(4, 256, device="meta")
    read_RC = read_back(weights_RC, type_name)
    assert (read_RC.shape, read_RC.dtype) == (weights_RC.shape, torch.float32)
    assert read_RC.device.type == "meta"
