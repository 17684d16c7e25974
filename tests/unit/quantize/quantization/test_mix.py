import numpy as np
import pytest

from potstill.errors import ConfigError, ConversionError
from quantize.quantization.mix import (
    MixSource,
    TensorCosts,
    _CostMeasurement,
    choose_mix,
    measure_costs,
    refuse_too_small,
)
from quantize.quantization.planner import Option
from quantize.quantization.tensors import TensorValues, read_tensors

pytestmark = pytest.mark.slow


@pytest.fixture
def source(make_base):
    base = make_base("F32", intermediate_size=256)
    return MixSource(base.checkpoint, base.base_path, base.names, base.imatrix_path, True, 1)


@pytest.mark.usefixtures("few_candidates")
def test_a_mix_has_its_size_and_its_types_to_the_byte(source, calibration, tmp_path):
    costs = measure_costs(source, calibration, tmp_path)
    matrices = [one for one in read_tensors(source.base_path) if one.is_matrix]
    assert costs.options.keys() == {one.name for one in matrices}
    for name, of_tensor in costs.options.items():
        kl_nats = {option.type: option.kl_nats for option in of_tensor}
        only_whole_super_blocks = {"Q4_K"} if "ffn_down" in name else set()
        assert kl_nats.keys() == {"F32", "IQ4_NL", "Q5_1", "Q8_0"} | only_whole_super_blocks
        assert kl_nats["F32"] == 0 < kl_nats["Q8_0"] < kl_nats["Q5_1"] < kl_nats["IQ4_NL"]
    smallest = costs.fixed_bytes + sum(
        min(option.num_bytes for option in of_tensor) for of_tensor in costs.options.values()
    )
    costs_by_size = {}
    for num_bytes in (smallest, smallest + 20_000, 10**6):
        mix = choose_mix(costs, num_bytes)
        path = tmp_path / "mix.gguf"
        source.quantize(mix.types, mix.file_type, path)
        assert path.stat().st_size == mix.num_bytes <= num_bytes
        types = {one.name: one.type for one in read_tensors(path) if one.is_matrix}
        assert types == mix.types
        costs_by_size[mix.num_bytes] = mix.predicted_kl_nats
    assert len(costs_by_size) == 3
    ordered = [costs_by_size[size] for size in sorted(costs_by_size)]
    assert ordered == sorted(ordered, reverse=True)
    assert ordered[-1] == 0.0, "there is room for the base's own type"


def test_weights_go_back_into_the_checkpoints_order(source, calibration):
    """Of the base file itself, whose query and key rows are in another order."""
    matrices = [one for one in read_tensors(source.base_path) if one.is_matrix]
    measurement = _CostMeasurement(source, calibration, matrices)
    values = TensorValues(source.base_path)
    for name in ("blk.0.attn_q.weight", "blk.1.attn_k.weight", "blk.0.ffn_up.weight"):
        ((their_name, weights),) = measurement._changes(name, values[name]).items()
        np.testing.assert_array_equal(weights, source.checkpoint.load(their_name))


def test_a_tensor_made_of_several_is_refused(make_base, calibration):
    base = make_base(model_type="qwen3_moe", num_experts=2, num_experts_per_tok=1)
    source = MixSource(base.checkpoint, base.base_path, base.names, base.imatrix_path, True, 1)
    matrices = [one for one in read_tensors(source.base_path) if one.is_matrix]
    with pytest.raises(ConversionError, match="for this architecture") as caught:
        _CostMeasurement(source, calibration, matrices)
    assert "exps" in str(caught.value.found)


def test_measurements_are_written_and_read(tmp_path):
    costs = TensorCosts({"tensor": [Option("Q8_0", 40, 0.25)]}, 7)
    costs.write(tmp_path / "costs.json")
    assert TensorCosts.read(tmp_path / "costs.json") == costs
    mix = choose_mix(costs, 47)
    assert (mix.num_bytes, mix.predicted_kl_nats, mix.file_type) == (47, 0.25, "Q8_0")
    assert mix.per_group() == {"tensor": {"Q8_0": 1}}


def test_a_size_below_the_smallest_is_refused_with_it(source):
    with pytest.raises(ConfigError, match=r"at least (0\.\d+)") as caught:
        refuse_too_small(source.base_path, 1e5, "student-0.1MB")
    smallest = float(str(caught.value.expected).rsplit(" ", 1)[1])
    refuse_too_small(source.base_path, smallest * 1e6, "student")
    with pytest.raises(ConfigError):
        refuse_too_small(source.base_path, smallest * 1e6 - 1e4, "student")
