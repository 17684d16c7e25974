import pytest
from gguf import GGUFReader

from quantize.conversion.checkpoint import Checkpoint
from quantize.conversion.convert import write_base_gguf
from quantize.llama.gguf_model import quantise_file

from .conftest import load_tokenizer


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
def test_rows_of_no_whole_blocks_fall_back_to_larger_types(
    make_checkpoint, tmp_path, width, gguf_type, down_type
):
    """What the train stage warns of when it makes MLPs narrower: down_proj's rows are the MLP."""
    directory = make_checkpoint(intermediate_size=width)
    base, target = tmp_path / "model-F16.gguf", tmp_path / "model.gguf"
    write_base_gguf(Checkpoint(directory), load_tokenizer(directory), base, "F16", "tiny")
    quantise_file(base, target, gguf_type, 1)
    types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(target).tensors}
    assert types["blk.0.ffn_down.weight"] == down_type
