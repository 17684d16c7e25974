"""Faults planted in a good file: each is caught, and the message names the file and the fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from potstill.errors import ConversionError
from quantize.conversion.checkpoint import Checkpoint
from quantize.conversion.convert import write_base_gguf
from quantize.verification.verify import verify_file

from .conftest import load_tokenizer


@pytest.fixture
def verify(make_checkpoint, proof, tmp_path):
    directory = make_checkpoint()
    path = tmp_path / "student-F16.gguf"
    write_base_gguf(Checkpoint(directory), load_tokenizer(directory), path, "F16", "tiny")
    expected, held_out, logprobs_path = proof(directory)

    def run(**changes):
        arguments = {"kl_bound_nats": 2e-4, "num_threads": 1} | changes
        return verify_file(path, expected, held_out, logprobs_path, **arguments)

    return path, run


def replace_bytes(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert len(old) == len(new)
    assert old in content
    path.write_bytes(content.replace(old, new))


def set_field(path: Path, key: str, value: int) -> None:
    from gguf import GGUFReader

    field = GGUFReader(path, "r+").fields[key]
    field.parts[field.data[0]][0] = value


def break_magic(path: Path) -> None:
    replace_bytes(path, b"GGUF", b"GGUX")


def cut_off_the_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5000])


def flip_a_byte_of_a_norm(path: Path) -> None:
    from gguf import GGUFReader

    tensor = next(t for t in GGUFReader(path).tensors if t.name == "output_norm.weight")
    content = bytearray(path.read_bytes())
    content[tensor.data_offset + 3] ^= 0x40
    path.write_bytes(content)


def fill_a_matrix_with_nan(path: Path) -> None:
    from gguf import GGUFReader

    tensor = next(t for t in GGUFReader(path, "r+").tensors if t.name == "blk.1.ffn_up.weight")
    tensor.data[0, 0] = float("nan")


def change_the_template(path: Path) -> None:
    replace_bytes(path, b"+ message['role'] +", b"+ 'user' + '' +    ")


def swap_eos(path: Path) -> None:
    set_field(path, "tokenizer.ggml.eos_token_id", 1)


def swap_two_tokens(path: Path) -> None:
    from gguf import GGUFReader

    field = GGUFReader(path, "r+").fields["tokenizer.ggml.tokens"]
    first, second = (field.parts[field.data[index]] for index in (70, 75))
    first[0], second[0] = second[0], first[0]


FAULTS = {
    break_magic: "invalid magic",
    cut_off_the_end: "not within the file bounds",
    flip_a_byte_of_a_norm: "too far from the checkpoint's",
    fill_a_matrix_with_nan: "found nan value",
    change_the_template: "chat template is not the checkpoint's",
    swap_eos: "eos token is not the checkpoint's",
    swap_two_tokens: "other token ids than the checkpoint",
}

FAULT_NAMES = [plant.__name__ for plant in FAULTS]


def test_good_file_passes(verify):
    path, run = verify
    measured = run()
    assert measured.kl_to_checkpoint_nats < 2e-4
    assert 16.0 < measured.bits_per_weight < 17.0
    assert path.is_file()


@pytest.mark.parametrize(("plant", "message"), FAULTS.items(), ids=FAULT_NAMES)
def test_planted_fault_is_caught(plant, message, verify, capfd):
    path, run = verify
    plant(path)
    with pytest.raises(ConversionError, match=message) as caught:
        run()
    assert caught.value.where == path
    assert caught.value.hint
    assert capfd.readouterr().err == ""


def test_bound_and_finding_are_named(verify):
    _, run = verify
    with pytest.raises(ConversionError) as caught:
        run(kl_bound_nats=1e-12)
    assert "1e-12 nats" in str(caught.value.expected)
    assert "nats, top-1 agreement" in str(caught.value.found)
