import numpy as np
import pytest
from gguf import GGUFReader

from potstill.errors import BackendError, ConversionError
from quantize.conversion.checkpoint import Checkpoint
from quantize.conversion.convert import gguf_names, write_base_gguf
from quantize.loading import load_tokenizer
from quantize.quantization.calibration import Calibration
from quantize.quantization.imatrix import read_importance, write_importance
from quantize.quantization.llama_quantize import quantize_file
from quantize.quantization.quantize import quantize
from tests.fixtures.ggml_blocks import quantize_rows


@pytest.fixture
def make_quantized(make_checkpoint, tmp_path):
    """Return a function that quantizes one random layer whose rows every type can have."""
    bases = {}

    def base(name, **changes):
        if name not in bases:
            sizes = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64} | changes
            directory = make_checkpoint(name, num_hidden_layers=1, **sizes)
            checkpoint = Checkpoint(directory)
            paths = tmp_path / f"{name}-F16.gguf", tmp_path / f"{name}.imatrix.gguf"
            write_base_gguf(checkpoint, load_tokenizer(directory), paths[0], "F16", "tiny")
            calibration = Calibration([list(range(3, 40))])
            write_importance(
                directory, gguf_names(checkpoint), "llama", calibration, paths[1], label="tiny"
            )
            bases[name] = paths
        return bases[name]

    def make(file_type, *, with_imatrix=True, imatrix_path=None, name="wide", **rest):
        tensor_types = rest.pop("tensor_types", None)
        base_path, own_path = base(name, **rest)
        path = tmp_path / f"{name}-{file_type}-{with_imatrix}.gguf"
        quantize_file(
            base_path,
            path,
            file_type,
            1,
            imatrix_path=(imatrix_path or own_path) if with_imatrix else None,
            tensor_types=tensor_types,
        )
        return path, own_path

    return make


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
    make_checkpoint, tmp_path, width, gguf_type, down_type
):
    """What the train stage warns of when it makes MLPs narrower: down_proj's rows are the MLP."""
    directory = make_checkpoint(intermediate_size=width)
    base, target = tmp_path / "model-F16.gguf", tmp_path / "model.gguf"
    write_base_gguf(Checkpoint(directory), load_tokenizer(directory), base, "F16", "tiny")
    quantize_file(base, target, gguf_type, 1)
    types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(target).tensors}
    assert types["blk.0.ffn_down.weight"] == down_type


def test_an_importance_matrix_changes_weights_and_is_recorded_in_the_file(make_quantized):
    plain, _ = make_quantized("Q4_0", with_imatrix=False)
    weighted, imatrix_path = make_quantized("Q4_0", with_imatrix=True)
    readers = [GGUFReader(path) for path in (plain, weighted)]
    first, second = ({one.name: one.data for one in reader.tensors} for reader in readers)
    name = "blk.0.ffn_up.weight"
    assert (first[name] != second[name]).any()
    fields = {key: field.contents() for key, field in readers[1].fields.items()}
    assert fields["quantize.imatrix.file"] == imatrix_path.name
    assert "training conversations" in fields["quantize.imatrix.dataset"]
    assert fields["quantize.imatrix.entries_count"] == 7
    assert fields["quantize.imatrix.chunks_count"] == 1
    assert not any(key.startswith("quantize.") for key in readers[0].fields)


def test_an_importance_matrix_of_another_model_is_refused(make_quantized):
    _, imatrix_path = make_quantized("Q4_0", with_imatrix=True)
    with pytest.raises(BackendError):
        make_quantized("Q4_0", imatrix_path=imatrix_path, name="other", hidden_size=512)


def test_single_tensors_get_the_types_they_are_given(make_quantized):
    wanted = {"token_embd.weight": "Q5_1", "blk.0.attn_q.weight": "IQ4_NL"}
    rest = {
        f"blk.0.{kind}.weight": "F16"
        for kind in ("attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    }
    path, _ = make_quantized("Q5_1", with_imatrix=True, tensor_types=wanted | rest)
    types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(path).tensors}
    assert {name: types[name] for name in (*wanted, *rest)} == wanted | rest


@pytest.mark.parametrize("file_type", ["Q8_0", "Q4_K_M", "IQ4_XS"])
def test_every_tensor_is_what_ggml_makes_of_it_with_its_own_importance(make_quantized, file_type):
    """Quantized a second time, tensor by tensor; none is mistaken for another."""
    path, imatrix_path = make_quantized(file_type)
    mean_squares = read_importance(imatrix_path).mean_squares
    sources = {
        one.name: one.data for one in GGUFReader(imatrix_path.with_name("wide-F16.gguf")).tensors
    }
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
