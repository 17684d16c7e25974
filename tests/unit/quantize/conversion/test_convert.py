from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from potstill.errors import ArtifactError, ConversionError
from quantize.conversion.checkpoint import Checkpoint
from quantize.conversion.convert import write_base_gguf
from quantize.conversion.families import keep_as_is
from quantize.verification.verify import verify_file

from ..conftest import load_tokenizer

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}

FAMILIES = {
    "llama tied": {},
    "llama untied": {"tie_word_embeddings": False},
    "llama with biases": {"attention_bias": True, "mlp_bias": True},
    "llama3 rope": {"rope_parameters": LLAMA3_ROPE},
    "linear rope": {"rope_parameters": LINEAR_ROPE},
    "llama with wide heads": {"head_dim": 32},
    "llama in shards": {"shard": "100KB"},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "head_dim": 32, "tie_word_embeddings": False},
}


@pytest.mark.parametrize("changes", FAMILIES.values(), ids=FAMILIES)
def test_f32_file_predicts_what_the_checkpoint_predicts(changes, make_checkpoint, proof, tmp_path):
    directory = make_checkpoint(**changes)
    path = tmp_path / "model-F32.gguf"
    write_base_gguf(Checkpoint(directory), load_tokenizer(directory), path, "F32", "tiny")
    measured = verify_file(path, *proof(directory), kl_bound_nats=1e-5, num_threads=1)
    assert measured.top1_agreement_with_checkpoint == 1.0
    assert measured.bits_per_weight == 32.0


def test_layout_matters_to_the_measure(make_checkpoint, proof, tmp_path):
    """The test above can fail: without the rotary permutation the file is nats away."""
    directory = make_checkpoint()
    checkpoint = Checkpoint(directory)
    checkpoint.family = replace(checkpoint.family, transform=keep_as_is)
    path = tmp_path / "model-F32.gguf"
    write_base_gguf(checkpoint, load_tokenizer(directory), path, "F32", "tiny")
    with pytest.raises(ConversionError, match="too far from the checkpoint's"):
        verify_file(path, *proof(directory), kl_bound_nats=0.1, num_threads=1)


def test_head_that_equals_the_embedding_is_left_out_whatever_the_flag_says(
    make_checkpoint, tmp_path
):
    from gguf import GGUFReader
    from safetensors.torch import load_file, save_file

    directory = make_checkpoint(tie_word_embeddings=False)
    weights = load_file(directory / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    path = tmp_path / "model.gguf"
    write_base_gguf(Checkpoint(directory), load_tokenizer(directory), path, "F16", "tiny")
    names = {tensor.name for tensor in GGUFReader(path).tensors}
    assert "token_embd.weight" in names
    assert "output.weight" not in names


def test_unsupported_architecture_is_refused_by_name(make_checkpoint):
    directory = make_checkpoint()
    config = json.loads((directory / "config.json").read_text())
    config["architectures"] = ["MambaForCausalLM"]
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConversionError, match="LlamaForCausalLM") as caught:
        Checkpoint(directory)
    assert caught.value.found == "MambaForCausalLM"


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"hidden_act": "gelu"}, "hidden_act"),
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}},
            "rope_type",
        ),
    ],
)
def test_setting_that_gguf_would_lose_is_refused(changes, key, make_checkpoint):
    with pytest.raises(ConversionError, match=key):
        Checkpoint(make_checkpoint(**changes))


def test_truncated_weights_are_named(make_checkpoint):
    path = make_checkpoint() / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ArtifactError, match="weights cannot be read") as caught:
        Checkpoint(path.parent)
    assert caught.value.where == path


def test_missing_shard_is_named(make_checkpoint, tmp_path):
    directory = make_checkpoint(shard="100KB")
    shard = sorted(directory.glob("*.safetensors"))[-1]
    shard.unlink()
    tokenizer = load_tokenizer(directory)
    with pytest.raises(ArtifactError, match="weights cannot be read") as caught:
        write_base_gguf(Checkpoint(directory), tokenizer, tmp_path / "m.gguf", "F16", "tiny")
    assert caught.value.where == shard


@pytest.mark.parametrize(
    ("value", "message"),
    [(float("nan"), "not finite"), (1e6, "too large for F16")],
)
def test_weights_that_cannot_be_stored_are_named(value, message, make_checkpoint, tmp_path):
    from safetensors.torch import load_file, save_file

    directory = make_checkpoint()
    weights = load_file(directory / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    weights[name][3, 5] = value
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConversionError, match=message) as caught:
        write_base_gguf(
            Checkpoint(directory), load_tokenizer(directory), tmp_path / "m.gguf", "F16", "tiny"
        )
    assert name in str(caught.value.where)


def test_adapter_tensors_are_refused(make_checkpoint, tmp_path):
    from safetensors.torch import load_file, save_file

    directory = make_checkpoint()
    weights = load_file(directory / "model.safetensors")
    weights["model.layers.0.self_attn.q_proj.lora_A.weight"] = weights["model.norm.weight"].clone()
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConversionError, match="no place in the architecture"):
        write_base_gguf(
            Checkpoint(directory), load_tokenizer(directory), tmp_path / "m.gguf", "F16", "tiny"
        )


def test_loaded_weights_are_the_saved_ones(make_checkpoint):
    from safetensors.torch import load_file

    directory = make_checkpoint()
    name = "model.layers.0.self_attn.k_proj.weight"
    saved = load_file(directory / "model.safetensors")[name].numpy()
    checkpoint = Checkpoint(directory)
    assert np.array_equal(checkpoint.load(name), saved)
    assert checkpoint.shape(name) == saved.shape == (32, 64)
