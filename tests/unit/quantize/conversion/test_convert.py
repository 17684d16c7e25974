"""What llama.cpp's converter is told, and what it refuses; integration tests verify its files."""

import json

import pytest
import torch
from gguf import GGUFReader, TokenType
from safetensors.torch import load_file, save_file

from potstill.errors import ConversionError
from quantize.conversion.convert import write_base_gguf
from quantize.loading import load_tokenizer

pytestmark = pytest.mark.slow

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
    write_base_gguf(directory, path, base_type, "tiny")
    reader = GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    return {tensor.name: tensor.data for tensor in reader.tensors}, fields


def test_a_trained_head_is_kept_whatever_the_flag_says(change_weights, tmp_path):
    """As PEFT leaves one behind (peft#2018): the flag still says tied."""

    def untie(weights):
        weights[HEAD] = weights[EMBEDDING] + 1

    tensors, _ = convert(change_weights(untie), tmp_path / "model.gguf")
    assert tensors["output.weight"] == pytest.approx(tensors["token_embd.weight"] + 1, abs=2e-3)


def test_a_tensor_without_a_place_is_refused(change_weights, tmp_path):
    def add(weights):
        weights["model.layers.0.self_attn.q_proj.lora_A.weight"] = torch.ones(4, 64)

    with pytest.raises(ConversionError, match="converter cannot convert") as caught:
        convert(change_weights(add), tmp_path / "model.gguf")
    assert "lora_A" in str(caught.value.found)


def test_shards_make_the_same_file_as_one(make_checkpoint, tmp_path):
    contents = []
    for shard in ("5GB", "100KB"):
        tensors, _ = convert(make_checkpoint(shard, shard=shard), tmp_path / f"{shard}.gguf", "F32")
        contents.append({name: data.tobytes() for name, data in tensors.items()})
    assert contents[0] == contents[1]


def test_a_tokenizer_larger_than_the_model_is_refused(make_checkpoint, tmp_path):
    with pytest.raises(ConversionError, match="converter cannot convert"):
        convert(make_checkpoint(vocab_size=300), tmp_path / "model.gguf")


def test_padded_rows_are_unused_tokens_and_all_stops_and_defaults_are_written(
    make_checkpoint, tmp_path
):
    directory = make_checkpoint()
    settings = {"eos_token_id": [2, 0], "temperature": 0.6, "top_k": 20}
    (directory / "generation_config.json").write_text(json.dumps(settings))
    _, fields = convert(directory, tmp_path / "model.gguf")
    tokens, types = (fields[f"tokenizer.ggml.{name}"] for name in ("tokens", "token_type"))
    num_tokens = len(load_tokenizer(directory))
    assert len(tokens) == len(types) == fields["llama.vocab_size"] == 1280
    assert tokens[-1] == "[PAD1279]"
    assert types[num_tokens:] == [TokenType.UNUSED] * (1280 - num_tokens)
    assert TokenType.UNUSED not in types[:num_tokens]
    stops = [fields[f"tokenizer.ggml.{name}_token_id"] for name in ("eos", "eot", "eom")]
    assert stops == [2, 2, 0]
    assert fields["general.sampling.temp"] == pytest.approx(0.6)
    assert fields["general.sampling.top_k"] == 20
    assert fields["general.name"] == "tiny"
