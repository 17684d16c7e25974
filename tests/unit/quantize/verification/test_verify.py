"""Faults planted in a good file: each is caught, and the message names the file and the fault."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from potstill.errors import ConversionError
from quantize.conversion.checkpoint import Checkpoint
from quantize.conversion.convert import write_base_gguf
from quantize.loading import load_tokenizer
from quantize.verification.expected import read_expected
from quantize.verification.reference import (
    Continuation,
    read_continuations,
    read_held_out,
    write_reference_logprobs,
)
from quantize.verification.verify import verify_file

from ..conftest import save_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def prove(talk, write_conversations):
    """Return a function that returns what a checkpoint's files must show, for `verify_file`."""

    def prove(directory: Path) -> dict[str, Any]:
        tokenizer = load_tokenizer(directory)
        conversations_dir = directory.with_name("held-out")
        logprobs_path = directory.with_name("logprobs.npy")
        conversations_dir.mkdir(exist_ok=True)
        write_conversations(conversations_dir, talk(tokenizer))
        held_out = read_held_out(conversations_dir, 60)
        vocab_size = Checkpoint(directory).config.vocab_size
        expected = read_expected(tokenizer, directory, vocab_size, held_out.chats)
        stops = expected.special.eog
        write_reference_logprobs(directory, held_out, logprobs_path, label="test", stops=stops)
        return {"expected": expected, "held_out": held_out, "logprobs_path": logprobs_path}

    return prove


@pytest.fixture(scope="module")
def good(tmp_path_factory, tokenizer_dir, prove):
    directory = save_checkpoint(tmp_path_factory.mktemp("proved") / "good", tokenizer_dir)
    convert_again(directory.with_name("student-F16.gguf"), directory)
    return directory.parent, prove(directory)


@pytest.fixture
def verify(good, tmp_path):
    """Return a copy of a good file, beside its checkpoint, and a function that verifies it."""
    source_dir, proved = good
    shutil.copytree(source_dir, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "student-F16.gguf"

    def run(**changes):
        settings = {"file_type": "F16", "kl_bound_nats": 2e-4, "num_threads": 1}
        own = {"logprobs_path": tmp_path / "logprobs.npy"}
        return verify_file(path, **proved | own | settings | changes)

    return path, run


def replace_bytes(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert len(old) == len(new)
    assert old in content
    path.write_bytes(content.replace(old, new))


def set_field(path: Path, key: str, value: float) -> None:
    from gguf import GGUFReader

    field = GGUFReader(path, "r+").fields[key]
    field.parts[field.data[0]][0] = value


def break_magic(path: Path) -> None:
    replace_bytes(path, b"GGUF", b"GGUX")


def flip_a_byte(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x04
    path.write_bytes(content)


def change_the_version(path: Path) -> None:
    flip_a_byte(path, 4)


def change_the_number_of_tensors(path: Path) -> None:
    flip_a_byte(path, 8)


def cut_off_the_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5000])


def cut_within_the_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def change_the_rotary_base(path: Path) -> None:
    set_field(path, "llama.rope.freq_base", 20000.0)


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


def hide_a_token(path: Path) -> None:
    """Llama.cpp still finds it in texts, but writes nothing for it."""
    from gguf import GGUFReader, TokenType

    field = GGUFReader(path, "r+").fields["tokenizer.ggml.token_type"]
    field.parts[field.data[70]][0] = TokenType.UNUSED


def convert_again(path: Path, directory: Path) -> None:
    path.unlink(missing_ok=True)
    write_base_gguf(directory, path, "F16", "tiny")


def leave_rotary_rows_in_halves(path: Path) -> None:
    from gguf import GGUFReader

    for tensor in GGUFReader(path, "r+").tensors:
        if tensor.name.endswith(("attn_q.weight", "attn_k.weight")):
            heads = tensor.data.reshape(-1, 8, 2, tensor.data.shape[-1])
            tensor.data[:] = heads.swapaxes(1, 2).reshape(tensor.data.shape)


def name_another_pre_tokenizer(path: Path) -> None:
    replace_bytes(path, b"\x06\0\0\0\0\0\0\0smollm", b"\x06\0\0\0\0\0\0\0jais-2")


def untie_the_head(path: Path) -> None:
    directory = path.with_name("untied")
    shutil.copytree(path.with_name("good"), directory)
    weights = load_file(directory / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].flip(0)
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    convert_again(path, directory)


FAULTS = {
    break_magic: "invalid magic",
    change_the_version: "version",
    change_the_number_of_tensors: "llama.cpp failed",
    cut_off_the_end: "not within the file bounds",
    cut_within_the_header: "failed to read",
    fill_a_matrix_with_nan: "blk.1.ffn_up.weight.* has invalid data",
    change_the_template: "chat template is not the checkpoint's",
    change_the_rotary_base: "too far from the checkpoint's",
    swap_eos: "eos token is not the checkpoint's",
    hide_a_token: "its text of the tokens of test text",
    swap_two_tokens: "its token ids of",
    name_another_pre_tokenizer: "its token ids of",
    leave_rotary_rows_in_halves: "too far from the checkpoint's",
    untie_the_head: "too far from the checkpoint's",
}

FAULT_NAMES = [plant.__name__ for plant in FAULTS]


def test_good_file_passes(verify):
    path, run = verify
    measured = run()
    assert measured.kl_to_checkpoint_nats < 2e-4
    assert measured.kl_median_nats <= measured.kl_p99_nats <= measured.kl_p999_nats
    assert measured.kl_p999_nats <= measured.kl_max_nats < 0.01
    assert measured.perplexity_ratio == pytest.approx(1, abs=0.01)
    assert measured.prompt_tokens_per_second > 0 < measured.decode_tokens_per_second
    assert measured.batch_decode_tokens_per_second > 0
    assert path.stat().st_size < measured.peak_memory_bytes < 1e9
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


def test_another_continuation_is_refused_unless_it_is_a_near_tie(verify, monkeypatch):
    path, run = verify
    ((*_, wanted),) = [read_continuations(path.with_name("logprobs.npy"))]
    last = len(wanted.token_ids) - 1
    ids = [*wanted.token_ids[:last], wanted.token_ids[last] + 1]
    for margin, refused in ((0.2, True), (0.05, False)):
        margins = [*wanted.margins_nats[:last], margin]
        other = [Continuation(wanted.prompt_ids, ids, margins)]
        monkeypatch.setattr(f"{verify_file.__module__}.read_continuations", lambda _, o=other: o)
        if refused:
            with pytest.raises(ConversionError, match=f"at token {last} {ids[last]}, which leads"):
                run()
        else:
            run()


def test_greedy_text_ends_where_the_checkpoint_stops(verify, prove, monkeypatch):
    path, run = verify
    directory = path.with_name("good")
    first, *_ = read_continuations(path.with_name("logprobs.npy"))
    stop = first.token_ids[2]
    eos = load_tokenizer(directory).eos_token_id
    settings = json.dumps({"eos_token_id": [eos, stop]})
    (directory / "generation_config.json").write_text(settings)
    proved = prove(directory)
    ended, *_ = read_continuations(proved["logprobs_path"])
    assert ended.token_ids == first.token_ids[: first.token_ids.index(stop) + 1]
    convert_again(path, directory)
    run(**proved)
    sooner = Continuation(ended.prompt_ids, ended.token_ids[:1], ended.margins_nats[:1])
    monkeypatch.setattr(f"{verify_file.__module__}.read_continuations", lambda _: [sooner])
    assert len(ended.token_ids) > 1
    with pytest.raises(ConversionError, match="continues where the checkpoint stops"):
        run(**proved)
