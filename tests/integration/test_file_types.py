"""Every file type that llama.cpp makes, of one random layer whose rows suit them all."""

import pytest
from gguf import GGUFReader

from potstill.errors import BackendError
from quantize.conversion.convert import write_base_gguf
from quantize.quantization.calibration import Calibration
from quantize.quantization.file_types import BASES, FILE_TYPES
from quantize.quantization.imatrix import write_importance
from quantize.quantization.llama_quantize import quantize_file
from tests.fixtures.tiny_checkpoints import TinyFamily, save_tiny_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

WIDE = TinyFamily(
    "llama",
    "gpt-2",
    {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64, "num_hidden_layers": 1},
)
QUANTIZED = [name for name in FILE_TYPES if name not in BASES]


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """A random layer as F16, and its importance matrix."""
    directory = tmp_path_factory.mktemp("wide")
    checkpoint_dir = save_tiny_checkpoint(WIDE, directory / "checkpoint")
    base_path, imatrix_path = directory / "F16.gguf", directory / "imatrix.gguf"
    write_base_gguf(checkpoint_dir, base_path, "F16", "wide")
    write_importance(base_path, Calibration([list(range(3, 40))]), imatrix_path, label="wide")
    return base_path, imatrix_path


@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=pytest.mark.nightly if one == "IQ1_M" else ()) for one in QUANTIZED],
)
def test_every_type_is_made_with_an_importance_matrix(paths, tmp_path, name):
    base_path, imatrix_path = paths
    quantize_file(base_path, tmp_path / "made.gguf", name, 1, imatrix_path=imatrix_path)
    reader = GGUFReader(tmp_path / "made.gguf")
    assert reader.fields["general.file_type"].contents() == FILE_TYPES[name].ftype
    types = {tensor.tensor_type.name for tensor in reader.tensors}
    # MXFP4 is for experts only: a dense model's tensors become Q8_0.
    assert FILE_TYPES[name].tensor_type in types or (name, types) == ("MXFP4_MOE", {"Q8_0", "F32"})


def test_types_that_need_an_importance_matrix_are_those_that_llama_cpp_refuses(paths, tmp_path):
    refused = set()
    for name in QUANTIZED:
        try:
            quantize_file(paths[0], tmp_path / "made.gguf", name, 1)
        except BackendError:
            refused.add(name)
    assert refused == {name for name in QUANTIZED if FILE_TYPES[name].requires_imatrix}
