from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType, dequantize, quantize

from potstill.errors import ConversionError
from quantize.llama.blocks import ROWS_PER_TASK, quantize_rows


@pytest.fixture(scope="module")
def weights_RC():
    rows = np.random.default_rng(0).standard_normal((ROWS_PER_TASK + 44, 512))
    return rows.astype(np.float32)


@pytest.mark.parametrize("name", ["F16", "BF16", "Q8_0"])
def test_blocks_are_those_of_the_gguf_package(weights_RC, name):
    """Of the types that both round alike; it has no other implementation of K types."""
    number = GGMLQuantizationType[name]
    wanted = quantize(weights_RC, number).view(np.uint8)
    assert np.array_equal(quantize_rows(weights_RC, number), wanted)


@pytest.mark.parametrize("name", ["Q4_K", "IQ4_XS", "Q5_1"])
def test_threads_change_nothing_and_weighed_columns_are_nearer(weights_RC, name):
    number = GGMLQuantizationType[name]
    importance_C = np.where(np.arange(512) % 32 < 4, 100.0, 1.0).astype(np.float32)
    plain = quantize_rows(weights_RC, number)
    weighed = quantize_rows(weights_RC, number, importance_C, num_threads=3)
    assert np.array_equal(weighed, quantize_rows(weights_RC, number, importance_C))
    important_C = importance_C > 1
    errors = [
        np.square(dequantize(blocks, number) - weights_RC)[:, important_C].mean()
        for blocks in (plain, weighed)
    ]
    assert errors[1] < errors[0]


def test_columns_of_no_whole_blocks_are_refused(weights_RC):
    with pytest.raises(ConversionError, match="blocks of Q4_K") as caught:
        quantize_rows(weights_RC[:, :320], GGMLQuantizationType.Q4_K)
    assert caught.value.found == 320
