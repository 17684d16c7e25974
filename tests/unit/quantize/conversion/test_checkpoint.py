import json

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from potstill.errors import ArtifactError, ConversionError
from quantize.conversion.checkpoint import Checkpoint

NAME = "model.layers.0.self_attn.k_proj.weight"


@pytest.mark.parametrize("shard", ["5GB", "100KB"])
def test_loaded_weights_are_the_saved_ones(make_checkpoint, shard):
    directory = make_checkpoint(shard=shard)
    files = list(directory.glob("*.safetensors"))
    assert (len(files) == 1) == (shard == "5GB")
    saved = {name: one for path in files for name, one in load_file(path).items()}
    checkpoint = Checkpoint(directory)
    assert checkpoint.files.keys() == saved.keys()
    assert np.array_equal(checkpoint.load(NAME), saved[NAME].numpy())


def test_unsupported_architecture_is_refused_by_name(make_checkpoint):
    path = make_checkpoint() / "config.json"
    path.write_text(path.read_text().replace("LlamaForCausalLM", "ClvpForCausalLM"))
    with pytest.raises(ConversionError, match="ClvpForCausalLM cannot be converted") as caught:
        Checkpoint(path.parent)
    assert (caught.value.where, caught.value.found) == (path, "ClvpForCausalLM")


@pytest.mark.parametrize("text", ["", "[", json.dumps({"architectures": ["LlamaForCausalLM"]})])
def test_a_damaged_configuration_is_named(make_checkpoint, text):
    path = make_checkpoint() / "config.json"
    path.write_text(text)
    with pytest.raises(ArtifactError, match="cannot be read") as caught:
        Checkpoint(path.parent)
    assert caught.value.where == path


def test_truncated_weights_are_named(make_checkpoint):
    path = make_checkpoint() / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ArtifactError, match="weights cannot be read") as caught:
        Checkpoint(path.parent)
    assert caught.value.where == path


def test_a_missing_shard_is_named(make_checkpoint):
    directory = make_checkpoint(shard="100KB")
    checkpoint = Checkpoint(directory)
    checkpoint.files[NAME].unlink()
    with pytest.raises(ArtifactError, match="weights cannot be read") as caught:
        checkpoint.load(NAME)
    assert caught.value.where == checkpoint.files[NAME]


def test_weights_that_are_not_finite_are_named(make_checkpoint):
    path = make_checkpoint() / "model.safetensors"
    weights = load_file(path)
    weights[NAME][3, 5] = float("nan")
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(ConversionError, match="not finite") as caught:
        Checkpoint(path.parent).load(NAME)
    assert NAME in str(caught.value.where)


@pytest.mark.parametrize("base_type", ["F16", "BF16"])
def test_weights_beyond_a_type_are_named(make_checkpoint, base_type):
    path = make_checkpoint() / "model.safetensors"
    weights = load_file(path)
    weights[NAME][3, 5] = 3.4028e38
    save_file(weights, path, {"format": "pt"})
    checkpoint = Checkpoint(path.parent)
    checkpoint.refuse_unfit("F32")
    with pytest.raises(ConversionError, match=f"too large for {base_type}") as caught:
        checkpoint.refuse_unfit(base_type)
    assert NAME in str(caught.value.where)


def test_the_text_model_of_a_nested_configuration_is_read(make_checkpoint):
    path = make_checkpoint() / "config.json"
    text = json.loads(path.read_text())
    nested = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3"}
    text |= {"model_type": "gemma3_text", "max_position_embeddings": 777}
    path.write_text(json.dumps(nested | {"text_config": text}))
    assert Checkpoint(path.parent).config.max_position_embeddings == 777
