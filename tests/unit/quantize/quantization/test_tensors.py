import numpy as np
import pytest

from quantize.quantization.llama_quantize import quantize_file
from quantize.quantization.tensors import (
    TensorValues,
    bits_per_weight,
    describe_tensors,
    explain_fallbacks,
    read_tensors,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def quantized(make_base, tmp_path):
    """A file whose MLP has rows of 256 values, its attention rows of 64."""
    base = make_base(intermediate_size=256)
    path = tmp_path / "Q4_K_M.gguf"
    quantize_file(base.base_path, path, "Q4_K_M", 1)
    return base, path


def test_fallbacks_are_those_of_the_file(quantized):
    _, path = quantized
    facts = describe_tensors(path, "Q4_K")
    assert facts.fallbacks == {"Q5_0": 11, "Q8_0": 1}
    assert facts.tensor_types["F32"] == 5
    assert facts.tensor_types["Q6_K"] + facts.tensor_types.get("Q4_K", 0) == 2
    assert sum(facts.tensor_types.values()) == 20
    assert explain_fallbacks(path, "Q4_K") == (
        "12 of 20 tensors are not Q4_K but 11 Q5_0, 1 Q8_0: rows of 64 are not a multiple of 256"
    )


def test_files_without_fallbacks_have_nothing_to_explain(quantized):
    base, _ = quantized
    assert explain_fallbacks(base.base_path, "Q8_0") is None
    assert describe_tensors(base.base_path, None).fallbacks == {}


def test_bits_are_counted_over_all_tensors(quantized):
    base, path = quantized
    assert 16 < bits_per_weight(base.base_path) < 16.5, "vectors are F32"
    assert 5 < bits_per_weight(path) < 8.6


def test_a_tensors_bytes_as_another_type_are_those_of_the_file(quantized):
    base, path = quantized
    quantized_tensors = {one.name: one for one in read_tensors(path)}
    for tensor in read_tensors(base.base_path):
        if tensor.is_matrix:
            became = quantized_tensors[tensor.name]
            assert tensor.num_bytes_as(became.type) == became.num_bytes


def test_values_come_back_in_the_checkpoints_shape(quantized):
    base, path = quantized
    found = TensorValues(path)["blk.0.ffn_down.weight"]
    wanted = base.checkpoint.load("model.layers.0.mlp.down_proj.weight").numpy()
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 0.1 * np.abs(wanted).max()
