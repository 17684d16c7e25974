"""What conversion refuses and leaves out; integration tests compare the files with llama.cpp's."""

from __future__ import annotations

import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file, save_file

from potstill.errors import ConversionError
from quantize.conversion.checkpoint import Checkpoint
from quantize.conversion.convert import gguf_names, write_base_gguf
from quantize.loading import load_tokenizer

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture
def change_weights(make_checkpoint):
    """Return a function that saves a random model with some weights changed."""

    def change(changes, **settings):
        directory = make_checkpoint(**settings)
        path = directory / "model.safetensors"
        weights = load_file(path)
        changes(weights)
        save_file(weights, path, {"format": "pt"})
        return directory

    return change


def convert(directory, path, base_type="F16"):
    write_base_gguf(Checkpoint(directory), load_tokenizer(directory), path, base_type, "tiny")
    return {tensor.name: tensor for tensor in GGUFReader(path).tensors}


def test_a_head_that_equals_the_embedding_is_left_out_whatever_the_flag_says(
    change_weights, tmp_path
):
    def tie(weights):
        weights[HEAD] = weights[EMBEDDING].clone()

    directory = change_weights(tie, tie_word_embeddings=False)
    tensors = convert(directory, tmp_path / "model.gguf")
    assert "token_embd.weight" in tensors
    assert "output.weight" not in tensors


def test_a_trained_head_is_kept_whatever_the_flag_says(change_weights, tmp_path):
    """As PEFT leaves one behind (peft#2018): the flag still says tied."""

    def untie(weights):
        weights[HEAD] = weights[EMBEDDING] + 1

    tensors = convert(change_weights(untie), tmp_path / "model.gguf")
    head, embedding = (tensors[name].data for name in ("output.weight", "token_embd.weight"))
    assert head == pytest.approx(embedding + 1, abs=2e-3)


def test_a_missing_head_is_refused(change_weights):
    directory = change_weights(lambda weights: weights.pop(HEAD), tie_word_embeddings=False)
    with pytest.raises(ConversionError, match="no output head"):
        gguf_names(Checkpoint(directory))


@pytest.mark.parametrize("base_type", ["F16", "BF16"])
def test_weights_beyond_a_type_are_named(change_weights, tmp_path, base_type):
    name = "model.layers.1.mlp.up_proj.weight"

    def enlarge(weights):
        weights[name][3, 5] = 3.4028e38

    directory = change_weights(enlarge)
    with pytest.raises(ConversionError, match=f"too large for {base_type}") as caught:
        convert(directory, tmp_path / "model.gguf", base_type)
    assert name in str(caught.value.where)


def test_an_adapters_tensors_are_refused(change_weights):
    def add(weights):
        weights["model.layers.0.self_attn.q_proj.lora_A.weight"] = torch.ones(4, 64)

    with pytest.raises(ConversionError, match="no place in the architecture"):
        gguf_names(Checkpoint(change_weights(add)))


def test_shards_make_the_same_file_as_one(make_checkpoint, tmp_path):
    contents = []
    for shard in ("5GB", "100KB"):
        path = tmp_path / f"{shard}.gguf"
        tensors = convert(make_checkpoint(shard, shard=shard), path, "F32")
        contents.append({name: tensor.data.tobytes() for name, tensor in tensors.items()})
    assert contents[0] == contents[1]
