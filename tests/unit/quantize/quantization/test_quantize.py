import numpy as np
import pytest
from gguf import GGUFReader

from potstill.errors import BackendError, ConversionError
from quantize.quantization.imatrix import read_importance
from quantize.quantization.llama_quantize import quantize_file
from quantize.quantization.quantize import quantize
from tests.fixtures.ggml_blocks import quantize_rows

from .conftest import SEQUENCES

pytestmark = pytest.mark.slow

WIDE = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64, "num_hidden_layers": 1}
"""One random layer whose rows suit every type."""


@pytest.fixture
def wide(make_base):
    return make_base(name="wide", **WIDE)


@pytest.mark.parametrize(
    ("width", "gguf_type", "down_type"),
    [
        (256, "Q4_K_M", "Q4_K"),
        (96, "Q4_K_M", "Q5_0"),
        (40, "Q4_K_M", "F16"),
        (96, "Q8_0", "Q8_0"),
        (40, "Q8_0", "F16"),
    ],
)
def test_rows_of_incomplete_blocks_fall_back_to_larger_types(
    make_base, tmp_path, width, gguf_type, down_type
):
    """What the train stage warns of when it makes MLPs narrower: down_proj's rows are the MLP."""
    target = tmp_path / "model.gguf"
    quantize_file(make_base(intermediate_size=width).base_path, target, gguf_type, 1)
    types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(target).tensors}
    assert types["blk.0.ffn_down.weight"] == down_type


def test_an_importance_matrix_changes_weights_and_is_recorded_in_the_file(wide, tmp_path):
    readers = []
    for imatrix_path in (None, wide.imatrix_path):
        path = tmp_path / f"{imatrix_path is None}.gguf"
        quantize_file(wide.base_path, path, "Q4_0", 1, imatrix_path=imatrix_path)
        readers.append(GGUFReader(path))
    first, second = ({one.name: one.data for one in reader.tensors} for reader in readers)
    name = "blk.0.ffn_up.weight"
    assert (first[name] != second[name]).any()
    fields = {key: field.contents() for key, field in readers[1].fields.items()}
    assert fields["quantize.imatrix.file"] == wide.imatrix_path.name
    assert "training conversations" in fields["quantize.imatrix.dataset"]
    assert fields["quantize.imatrix.entries_count"] == 7
    assert fields["quantize.imatrix.chunks_count"] == len(SEQUENCES)
    assert not any(key.startswith("quantize.") for key in readers[0].fields)


def test_an_importance_matrix_of_another_model_is_refused(wide, make_base, tmp_path):
    other = make_base(name="other", **WIDE | {"hidden_size": 512})
    with pytest.raises(BackendError):
        quantize_file(
            other.base_path, tmp_path / "made.gguf", "Q4_0", 1, imatrix_path=wide.imatrix_path
        )


def test_single_tensors_get_the_types_they_are_given(wide, tmp_path):
    wanted = {"token_embd.weight": "Q5_1", "blk.0.attn_q.weight": "IQ4_NL"}
    rest = {
        f"blk.0.{kind}.weight": "F16"
        for kind in ("attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    }
    path = tmp_path / "made.gguf"
    quantize_file(wide.base_path, path, "Q5_1", 1, tensor_types=wanted | rest)
    types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(path).tensors}
    assert {name: types[name] for name in (*wanted, *rest)} == wanted | rest


@pytest.mark.parametrize("file_type", ["Q8_0", "Q4_K_M", "IQ4_XS"])
def test_every_tensor_is_what_ggml_makes_of_it_with_its_own_importance(wide, tmp_path, file_type):
    path = tmp_path / "made.gguf"
    quantize_file(wide.base_path, path, file_type, 1, imatrix_path=wide.imatrix_path)
    mean_squares = read_importance(wide.imatrix_path).mean_squares
    sources = {one.name: one.data for one in GGUFReader(wide.base_path).tensors}
    made = {one.name: one for one in GGUFReader(path).tensors}
    assert made.keys() == sources.keys()
    assert sum(name in mean_squares for name in made) == 7
    for name, tensor in made.items():
        wanted = quantize_rows(sources[name], tensor.tensor_type, mean_squares.get(name))
        assert np.array_equal(tensor.data.view(np.uint8).ravel(), wanted.ravel()), name


def test_llama_cpps_own_words_are_in_the_error(tmp_path, capfd):
    source, target = tmp_path / "source.gguf", tmp_path / "target.gguf"
    source.write_bytes(b"GGUX" + bytes(100))
    with pytest.raises(ConversionError, match="failed while quantizing to Q8_0") as caught:
        quantize(source, target, "Q8_0", 1)
    assert caught.value.where == target
    assert "invalid magic" in str(caught.value.found)
    assert list(tmp_path.iterdir()) == [source]
    assert capfd.readouterr() == ("", "")
