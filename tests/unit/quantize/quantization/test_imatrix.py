"""The importance matrix against what llama.cpp's own graph multiplies."""

import ctypes

import llama_cpp
import numpy as np
import pytest
from gguf import GGUFReader
from llama_cpp._ggml import libggml

from potstill.errors import ConversionError
from potstill.llama.context import Context, measuring_params
from potstill.llama.model import LlamaModel
from quantize.quantization.calibration import Calibration
from quantize.quantization.imatrix import read_importance, write_importance

from .conftest import SEQUENCES


class GgmlTensor(ctypes.Structure):
    """struct ggml_tensor (llama.cpp 0c1e57098, ggml.h)."""


GgmlTensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(GgmlTensor) * 10),
    ("view_src", ctypes.c_void_p),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
]


def mean_squares_of_llama_cpp(path, token_ids):
    """Evaluate a file and square the right factor of each product with a block's weights.

    Source: llama.cpp 0c1e57098, tools/imatrix/imatrix.cpp, IMatrixCollector::collect_imatrix.
    """
    libggml.ggml_op_name.restype = ctypes.c_char_p
    found = {}

    def collect(pointer, ask, _user_data):
        tensor = ctypes.cast(pointer, ctypes.POINTER(GgmlTensor)).contents
        is_product = libggml.ggml_op_name(tensor.op) == b"MUL_MAT"
        if not is_product or not tensor.src[0].contents.name.startswith(b"blk."):
            return False
        if not ask:
            inputs = tensor.src[1].contents
            assert inputs.type == 0
            assert inputs.nb[1] == 4 * inputs.ne[0], "rows follow one another"
            shape = (inputs.ne[1], inputs.ne[0])
            pointer = ctypes.cast(inputs.data, ctypes.POINTER(ctypes.c_float))
            values = np.ctypeslib.as_array(pointer, shape).astype(np.float64)
            found[tensor.src[0].contents.name.decode()] = np.square(values).mean(0)
        return True

    callback = llama_cpp.ggml_backend_sched_eval_callback(collect)
    params = measuring_params(64, 1)
    params.cb_eval = callback
    with LlamaModel(path, for_measurement=True) as model, Context(model, params) as context:
        context.decode(token_ids, 0, 0)  # all logits: else the last layer's MLP sees one token only
    return found


def test_it_is_what_llama_cpp_multiplies_with(make_base, tmp_path):
    base = make_base("F32")
    path = tmp_path / "one.gguf"
    names = {"model.layers.0.mlp.up_proj.weight": "one name for all"}
    write_importance(
        base.checkpoint.dir, names, "llama", Calibration(SEQUENCES[:1]), path, label="tiny"
    )
    assert list(read_importance(path).mean_squares) == ["one name for all"]
    write_importance(
        base.checkpoint.dir,
        {
            f"model.layers.{layer}.{theirs}.weight": f"blk.{layer}.{ours}.weight"
            for layer in range(2)
            for theirs, ours in {
                "self_attn.q_proj": "attn_q",
                "self_attn.k_proj": "attn_k",
                "self_attn.v_proj": "attn_v",
                "self_attn.o_proj": "attn_output",
                "mlp.gate_proj": "ffn_gate",
                "mlp.up_proj": "ffn_up",
                "mlp.down_proj": "ffn_down",
            }.items()
        },
        "llama",
        Calibration(SEQUENCES[:1]),
        path,
        label="tiny",
    )
    found = read_importance(path).mean_squares
    expected = mean_squares_of_llama_cpp(base.base_path, SEQUENCES[0])
    assert found.keys() == expected.keys()
    assert len(found) == 14
    for name, mean_squares_C in found.items():
        np.testing.assert_allclose(mean_squares_C, expected[name], rtol=1e-3)


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
