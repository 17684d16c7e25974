"""One byte changed anywhere, or another checkpoint's file: found, and named."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from gguf import GGUFReader

from potstill.errors import ConversionError
from quantize.conversion.checkpoint import Checkpoint
from quantize.conversion.convert import gguf_names, write_base_gguf
from quantize.llama.process import quantize
from quantize.loading import load_tokenizer
from quantize.quantization.calibration import Calibration
from quantize.quantization.imatrix import read_importance, write_importance
from quantize.verification.contents import Origin, check_contents

NUM_FLIPS = 4
QUANTIZED_TYPES = ("Q8_0", "Q4_K_M", "IQ4_XS")
NUM_DRAWS = 5


@pytest.fixture
def make_file(make_checkpoint, tmp_path):
    """Return a function that makes a file and tells what it was made of; rows are of 64 and 256."""

    def make(gguf_type, *, with_imatrix=False, **changes):
        directory = make_checkpoint(intermediate_size=256, **changes)
        checkpoint, tokenizer = Checkpoint(directory), load_tokenizer(directory)
        base_type = gguf_type if gguf_type in ("F32", "F16") else "F16"
        base, path = tmp_path / "base.gguf", tmp_path / f"{gguf_type}.gguf"
        write_base_gguf(checkpoint, tokenizer, base, base_type, "tiny")
        imatrix_path = tmp_path / "imatrix.gguf" if with_imatrix else None
        if imatrix_path is not None:
            names, calibration = gguf_names(checkpoint), Calibration([list(range(7, 60))])
            write_importance(directory, names, "llama", calibration, imatrix_path, label="tiny")
        if gguf_type == base_type:
            base.rename(path)
        else:
            quantize(base, path, gguf_type, 1, imatrix_path=imatrix_path)
        importance = imatrix_path and read_importance(imatrix_path)
        return path, Origin(checkpoint, tokenizer, "tiny", gguf_type, base_type, importance)

    return make


@pytest.mark.slow
@pytest.mark.parametrize("gguf_type", ["F32", "F16", *QUANTIZED_TYPES])
def test_a_flipped_byte_of_any_tensor_is_found_and_the_tensor_named(gguf_type, make_file):
    path, origin = make_file(gguf_type)
    check_contents(path, origin, 1)
    tensors = GGUFReader(path).tensors
    content = path.read_bytes()
    all_changed = bytearray(content)
    for index, tensor in enumerate(tensors):
        position = int(tensor.data_offset + (1000 * index + 7) % tensor.n_bytes)
        all_changed[position] ^= 1 << index % 8
        if index % (len(tensors) // NUM_FLIPS):
            continue
        changed = bytearray(content)
        changed[position] ^= 1 << index % 8
        path.write_bytes(changed)
        message = rf"tensor {tensor.name} differs in 1 of \d+ bytes, first at byte {position} of"
        with pytest.raises(ConversionError, match=message):
            check_contents(path, origin, 1)
    path.write_bytes(all_changed)
    with pytest.raises(ConversionError, match=f"{len(tensors)} of {len(tensors)} tensors differ"):
        check_contents(path, origin, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("bit", "which"), [(1, slice(0, None, 2)), (0x80, slice(1, None, 5))])
def test_a_flipped_byte_of_a_value_is_found_and_its_key_named(bit, which, make_file):
    """The higher bit makes texts no UTF-8."""
    path, origin = make_file("Q8_0")
    content = path.read_bytes()
    fields = [one for key, one in GGUFReader(path).fields.items() if not key.startswith("GGUF.")]
    assert len(fields) > 20
    for field in fields[which]:
        index = field.data[len(field.data) // 2]
        changed = bytearray(content)
        changed[field.offset + sum(part.nbytes for part in field.parts[:index])] ^= bit
        path.write_bytes(changed)
        with pytest.raises(ConversionError, match=f"at the key {field.name}\n"):
            check_contents(path, origin, 1)


def regions(path):
    """Return where the parts of a file lie."""
    reader = GGUFReader(path)
    tensors = sorted(reader.tensors, key=lambda one: one.data_offset)
    ends = [one.field.offset + sum(part.nbytes for part in one.field.parts) for one in tensors]
    first_info = min(one.field.offset for one in tensors)
    gaps = [(max(ends), reader.data_offset)]
    gaps += [(one.data_offset + one.n_bytes, after.data_offset) for one, after in pairwise(tensors)]
    return {
        "header": [*range(24)],
        "keys": [*range(24, first_info)],
        "names, shapes, types and places of tensors": [*range(first_info, max(ends))],
        "padding": [place for start, end in gaps for place in range(int(start), int(end))],
        "data": [*range(reader.data_offset, path.stat().st_size)],
    }


@pytest.mark.slow
def test_a_flipped_bit_is_found_wherever_it_is(make_file):
    """The vocabulary's size lets a tensor end within the padded bytes."""
    path, origin = make_file("Q4_K_M", with_imatrix=True, vocab_size=1281)
    check_contents(path, origin, 1)
    content = path.read_bytes()
    draws = np.random.default_rng(0)
    for name, places in regions(path).items():
        assert places, name
        for place in draws.choice(places, min(NUM_DRAWS, len(places)), replace=False).tolist():
            changed = bytearray(content)
            changed[place] ^= 1 << int(draws.integers(8))
            path.write_bytes(changed)
            with pytest.raises(ConversionError):
                check_contents(path, origin, 1)


@pytest.mark.parametrize("gguf_type", ["F16", "Q4_K_M"])
def test_another_checkpoints_file_is_refused(gguf_type, make_file):
    path, _ = make_file(gguf_type, name="other", initializer_range=0.21)
    _, origin = make_file("F32", name="right")
    origin = replace(origin, file_type=gguf_type, base_type="F16")
    with pytest.raises(ConversionError, match="15 of 20 tensors differ") as caught:
        check_contents(path, origin, 1)
    assert "another checkpoint's" in caught.value.hint


def test_a_deeper_models_file_is_refused(make_file):
    path, _ = make_file("F16", name="deeper", num_hidden_layers=3)
    _, origin = make_file("F32", name="right")
    with pytest.raises(ConversionError, match=r"at the key llama\.block_count"):
        check_contents(path, replace(origin, file_type="F16", base_type="F16"), 1)


def test_rows_in_another_order_are_told_from_other_rows(make_file):
    path, origin = make_file("Q8_0")
    tensor = next(t for t in GGUFReader(path, "r+").tensors if t.name == "blk.0.attn_q.weight")
    tensor.data[[0, 1]] = tensor.data[[1, 0]]
    with pytest.raises(ConversionError, match=r"blk.0.attn_q.weight has the right rows in another"):
        check_contents(path, origin, 1)


@pytest.mark.slow
def test_the_importance_matrix_must_be_the_one_that_was_used(make_file):
    path, origin = make_file("Q4_K_M", with_imatrix=True)
    name = "blk.0.ffn_up.weight"
    squares = origin.importance.mean_squares
    other = squares | {name: squares[name] * np.linspace(0.1, 10, 64, dtype=np.float32)}
    other_origin = replace(origin, importance=replace(origin.importance, mean_squares=other))
    with pytest.raises(ConversionError, match=rf"tensor {name} differs .*1 of 20"):
        check_contents(path, other_origin, 1)
    with pytest.raises(ConversionError, match=r"at the key quantize\.imatrix\.file"):
        check_contents(path, replace(origin, importance=None), 1)


def test_nothing_may_follow_the_last_tensor_or_lie_between_two(make_file):
    path, origin = make_file("F16", vocab_size=1281)
    content = path.read_bytes()
    path.write_bytes(content + b"more")
    with pytest.raises(ConversionError, match="something else than zeros"):
        check_contents(path, origin, 1)
