"""One byte changed anywhere, or another checkpoint's file: found, and named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from gguf import GGUFReader

from potstill.errors import ConversionError
from quantize.conversion.checkpoint import Checkpoint
from quantize.conversion.convert import write_base_gguf
from quantize.llama.process import quantise
from quantize.loading import load_tokenizer
from quantize.verification.contents import Origin, check_contents

NUM_FLIPS = 4
QUANTISED_TYPES = ("Q8_0", "Q4_K_M", "IQ4_XS")


@pytest.fixture
def make_file(make_checkpoint, tmp_path):
    """Return a function that makes a file and tells what it was made of; rows are of 64 and 256."""

    def make(gguf_type, **changes):
        directory = make_checkpoint(intermediate_size=256, **changes)
        checkpoint, tokenizer = Checkpoint(directory), load_tokenizer(directory)
        base_type = gguf_type if gguf_type in ("F32", "F16") else "F16"
        base, path = tmp_path / "base.gguf", tmp_path / f"{gguf_type}.gguf"
        write_base_gguf(checkpoint, tokenizer, base, base_type, "tiny")
        if gguf_type == base_type:
            base.rename(path)
        else:
            quantise(base, path, gguf_type, 1)
        return path, Origin(checkpoint, tokenizer, "tiny", gguf_type, base_type)

    return make


@pytest.mark.parametrize("gguf_type", ["F32", "F16", *QUANTISED_TYPES])
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


@pytest.mark.parametrize("gguf_type", ["F16", "Q4_K_M"])
def test_another_checkpoints_file_is_refused(gguf_type, make_file):
    path, _ = make_file(gguf_type, name="other", initializer_range=0.21)
    _, origin = make_file("F32", name="right")
    origin = replace(origin, gguf_type=gguf_type, base_type="F16")
    with pytest.raises(ConversionError, match="15 of 20 tensors differ") as caught:
        check_contents(path, origin, 1)
    assert "another checkpoint's" in caught.value.hint


def test_a_deeper_models_file_is_refused(make_file):
    path, _ = make_file("F16", name="deeper", num_hidden_layers=3)
    _, origin = make_file("F32", name="right")
    with pytest.raises(ConversionError, match=r"at the key llama\.block_count"):
        check_contents(path, replace(origin, gguf_type="F16", base_type="F16"), 1)


def test_rows_in_another_order_are_told_from_other_rows(make_file):
    path, origin = make_file("Q8_0")
    tensor = next(t for t in GGUFReader(path, "r+").tensors if t.name == "blk.0.attn_q.weight")
    tensor.data[[0, 1]] = tensor.data[[1, 0]]
    with pytest.raises(ConversionError, match=r"blk.0.attn_q.weight has the right rows in another"):
        check_contents(path, origin, 1)


def test_an_importance_matrix_that_was_used_must_be_told(make_file):
    path, origin = make_file("Q4_K_M")
    importance = {"blk.0.ffn_up.weight": np.linspace(0.1, 10, 64, dtype=np.float32)}
    with pytest.raises(ConversionError, match=r"tensor blk.0.ffn_up.weight differs .*1 of 20"):
        check_contents(path, replace(origin, importance=importance), 1)


def test_nothing_may_follow_the_last_tensor_or_lie_between_two(make_file):
    path, origin = make_file("F16", vocab_size=1281)
    content = path.read_bytes()
    path.write_bytes(content + b"more")
    with pytest.raises(ConversionError, match="something else than zeros"):
        check_contents(path, origin, 1)
