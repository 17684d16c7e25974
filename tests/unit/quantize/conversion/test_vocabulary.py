from __future__ import annotations

import json

import pytest

from potstill.errors import ConversionError
from quantize.conversion.checkpoint import Checkpoint
from quantize.conversion.convert import write_base_gguf
from quantize.conversion.vocabulary import PRE_TOKENIZERS, find_pre_tokenizer, read_special_tokens
from quantize.verification.verify import verify_file

from ..conftest import SMOLLM_STEPS, load_tokenizer, save_tokenizer


def steps_of(described: tuple[str, ...]) -> list[dict]:
    """Write the steps of PRE_TOKENIZERS as tokenizer.json has them."""
    byte_level = SMOLLM_STEPS[1]
    known = {
        "ByteLevel:regex": byte_level,
        "ByteLevel": byte_level | {"use_regex": False},
        "Digits:individual": SMOLLM_STEPS[0],
    }
    return [
        known.get(step)
        or {
            "type": "Split",
            "pattern": {"Regex": step.removeprefix("Split:")},
            "behavior": "Isolated",
            "invert": False,
        }
        for step in described
    ]


@pytest.mark.parametrize("described", PRE_TOKENIZERS, ids=PRE_TOKENIZERS.values())
def test_every_known_pre_tokenizer_gives_llama_cpp_the_same_ids(
    described, make_checkpoint, proof, tmp_path
):
    directory = make_checkpoint()
    save_tokenizer(directory, steps_of(described))
    path = tmp_path / "model.gguf"
    write_base_gguf(Checkpoint(directory), load_tokenizer(directory), path, "F32", "tiny")
    verify_file(path, *proof(directory), kl_bound_nats=1e-5, num_threads=1)


def test_wrong_pre_tokenizer_is_caught(make_checkpoint, proof, tmp_path, monkeypatch):
    directory = make_checkpoint()
    monkeypatch.setattr("quantize.conversion.vocabulary.find_pre_tokenizer", lambda *_: "qwen2")
    path = tmp_path / "model.gguf"
    write_base_gguf(Checkpoint(directory), load_tokenizer(directory), path, "F32", "tiny")
    with pytest.raises(ConversionError, match="other token ids than the checkpoint"):
        verify_file(path, *proof(directory), kl_bound_nats=1e-5, num_threads=1)


def test_other_tokenizers_are_refused(tokenizer_dir):
    content = json.loads((tokenizer_dir / "tokenizer.json").read_text())
    content["pre_tokenizer"] = {"type": "Whitespace"}
    with pytest.raises(ConversionError, match="smollm"):
        find_pre_tokenizer(content, "here")
    content["model"]["byte_fallback"] = True
    with pytest.raises(ConversionError, match="byte-level BPE"):
        find_pre_tokenizer(content, "here")


def test_tokenizer_larger_than_the_model_is_refused(make_checkpoint, tmp_path):
    directory = make_checkpoint(vocab_size=300)
    with pytest.raises(ConversionError, match="more tokens than the model"):
        write_base_gguf(
            Checkpoint(directory), load_tokenizer(directory), tmp_path / "m.gguf", "F16", "tiny"
        )


def test_stops_come_from_tokenizer_template_and_generation_config(make_checkpoint):
    directory = make_checkpoint()
    tokenizer = load_tokenizer(directory)
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}))
    special = read_special_tokens(tokenizer, directory)
    assert (special.eos, special.eot, special.eog) == (2, 2, {0, 2})
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "<|endoftext|>")
    assert read_special_tokens(tokenizer, directory).eot == 0
