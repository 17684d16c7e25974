import itertools
from typing import get_args

import llama_cpp
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from quantize.quantization.file_types import FILE_TYPES, FileTypeName, bound_of_bits, uses_imatrix

LEFT_OUT = {"NVFP4", "Q2_0", "GUESSED"}


def test_every_type_of_llama_cpp_is_there_under_its_own_number():
    constants = {
        name.removeprefix("LLAMA_FTYPE_").split("_", 1)[1]: getattr(llama_cpp, name)
        for name in dir(llama_cpp.llama_cpp)
        if name.startswith(("LLAMA_FTYPE_ALL_", "LLAMA_FTYPE_MOSTLY_"))
    }
    ours = {name: row.ftype for name, row in FILE_TYPES.items()}
    assert ours == {name: value for name, value in constants.items() if name not in LEFT_OUT}
    assert set(get_args(FileTypeName)) == set(ours)


@pytest.mark.parametrize("name", FILE_TYPES)
def test_nominal_bits_are_those_of_the_blocks(name):
    values, num_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[FILE_TYPES[name].tensor_type]]
    assert FILE_TYPES[name].bits == 8 * num_bytes / values


def test_coarser_types_have_no_narrower_bounds():
    rows = sorted(FILE_TYPES.values(), key=lambda row: row.bits)
    for coarse, fine in itertools.pairwise(rows):
        if coarse.bits < fine.bits - 0.6:
            assert coarse.kl_bound_nats >= fine.kl_bound_nats


@pytest.mark.parametrize(
    ("bits", "name"), [(9.0, "Q8_0"), (6.2, "Q5_1"), (4.6, "Q4_0"), (2.7, "Q2_K"), (1.0, "Q1_0")]
)
def test_a_mix_has_the_bound_of_the_next_coarser_type(bits, name):
    assert bound_of_bits(bits) == FILE_TYPES[name].kl_bound_nats


@pytest.mark.parametrize(
    ("name", "setting", "used"),
    [
        ("Q4_K_M", "auto", True),
        ("Q5_1", "auto", True),
        ("Q6_K", "auto", False),
        ("Q6_K", "always", True),
        ("Q4_K_M", "never", False),
        ("F16", "always", False),
    ],
)
def test_coarse_types_use_an_importance_matrix(name, setting, used):
    assert uses_imatrix(name, setting) == used
