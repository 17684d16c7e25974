"""The importance matrix against the inputs of the checkpoint's own layers."""

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from torch import nn

from potstill.errors import ConversionError
from quantize.loading import load_model
from quantize.quantization.calibration import Calibration
from quantize.quantization.imatrix import read_importance, write_importance

from .conftest import SEQUENCES

pytestmark = pytest.mark.slow


def mean_squares_of_transformers(directory):
    """Evaluate the checkpoint and square the inputs of each linear layer but the head."""
    model = load_model(directory)
    inputs = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            of_module = inputs.setdefault(f"{name}.weight", [])
            module.register_forward_pre_hook(lambda _, given, to=of_module: to.append(given[0]))
    with torch.inference_mode():
        for token_ids in SEQUENCES:
            model(torch.tensor([token_ids]))
    return {
        name: torch.cat([one.flatten(0, -2) for one in parts]).double().square().mean(0).numpy()
        for name, parts in inputs.items()
    }


@pytest.mark.parametrize(
    "settings",
    [{}, {"model_type": "lfm2", "layer_types": ["conv", "full_attention"]}],
    ids=["llama", "lfm2"],
)
def test_it_is_what_the_checkpoints_layers_multiply_with(make_base, settings):
    base = make_base("F32", **settings)
    found = read_importance(base.imatrix_path).mean_squares
    expected = mean_squares_of_transformers(base.checkpoint.dir)
    assert {base.names[name] for name in found} == expected.keys()
    for name, mean_squares_C in found.items():
        np.testing.assert_allclose(mean_squares_C, expected[base.names[name]], rtol=1e-3)


def test_each_expert_has_the_inputs_of_its_own_tokens(make_base):
    base = make_base("F32", model_type="qwen3_moe", num_experts=3, num_experts_per_tok=2)
    reader = GGUFReader(base.imatrix_path)
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    num_tokens = sum(map(len, SEQUENCES))
    counts = tensors["blk.0.ffn_gate_exps.weight.counts"].ravel()
    assert counts.shape == (3,)
    assert counts.sum() == 2 * num_tokens
    assert (tensors["blk.0.ffn_down_exps.weight.counts"].ravel() == counts).all()
    router = tensors["blk.0.ffn_gate_inp.weight.in_sum2"][0]
    chosen_twice = tensors["blk.0.ffn_up_exps.weight.in_sum2"].sum(0)
    np.testing.assert_allclose(chosen_twice, 2 * router, rtol=1e-4)


def test_an_expert_without_tokens_counts_as_much_as_any(make_base, tmp_path):
    base = make_base("F16", model_type="qwen3_moe", num_experts=8, num_experts_per_tok=1)
    path = tmp_path / "one.gguf"
    write_importance(base.base_path, Calibration([[7]]), path, label="tiny", num_threads=1)
    values = read_importance(path).mean_squares["blk.0.ffn_up_exps.weight"].reshape(8, -1)
    assert (values == 1).all(axis=1).sum() == 7


def test_the_file_has_the_layout_of_llama_cpps_own_tools(make_base):
    base = make_base()
    reader = GGUFReader(base.imatrix_path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    num_tokens = sum(map(len, SEQUENCES))
    assert fields["general.type"] == "imatrix"
    assert fields["imatrix.chunk_count"] == len(SEQUENCES)
    assert fields["imatrix.chunk_size"] == round(num_tokens / len(SEQUENCES))
    assert f"{num_tokens} tokens" in fields["imatrix.datasets"][0]
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    sums = tensors["blk.1.ffn_down.weight.in_sum2"]
    counts = tensors["blk.1.ffn_down.weight.counts"]
    assert list(sums.shape) == [128, 1]
    assert list(counts.shape) == [1, 1]
    assert counts.data.item() == num_tokens
    mean_squares = read_importance(base.imatrix_path).mean_squares["blk.1.ffn_down.weight"]
    np.testing.assert_allclose(mean_squares, sums.data[0] / num_tokens, rtol=1e-6)


def test_a_damaged_file_is_refused(make_base):
    path = make_base().imatrix_path
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ConversionError, match="importance matrix cannot be read"):
        read_importance(path)


def test_a_model_is_not_an_importance_matrix(make_base):
    with pytest.raises(ConversionError, match="importance matrix cannot be read"):
        read_importance(make_base().base_path)
