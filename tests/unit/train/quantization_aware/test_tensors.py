import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MixtralConfig

from potstill.errors import TrainingError
from train.quantization_aware.tensors import tensor_types

SMALL = {
    "vocab_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def llama(width=64, neurons=96, tied=True):
    torch.manual_seed(0)
    sizes = {"hidden_size": width, "intermediate_size": neurons, "tie_word_embeddings": tied}
    return AutoModelForCausalLM.from_config(LlamaConfig(**SMALL, **sizes))


@pytest.mark.parametrize(
    ("width", "file_type", "expected"),
    [
        (64, "Q4_0", "Q8_0"),
        (256, "Q4_0", "Q6_K"),
        (256, "Q5_1", "Q6_K"),
        (256, "Q8_0", "Q8_0"),
        (48, "Q4_0", "F16"),
    ],
)
def test_the_head_is_finer(width, file_type, expected):
    tied = tensor_types(llama(width), file_type)
    assert tied["model.embed_tokens.weight"] == expected
    untied = tensor_types(llama(width, tied=False), file_type)
    assert untied["lm_head.weight"] == expected
    assert untied["model.embed_tokens.weight"] == ("F16" if width == 48 else file_type)


def test_layers_have_the_files_type_and_vectors_none():
    types = tensor_types(llama(neurons=80), "Q5_0")
    layer = {name.split(".")[-2]: one for name, one in types.items() if "layers" in name}
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj")
    assert layer == dict.fromkeys(names, "Q5_0") | {"down_proj": "F16"}


def test_a_head_that_equals_the_embedding_is_left_out_of_a_file():
    """So the embedding is the head there, whatever the config says."""
    model = llama(tied=False)
    with torch.no_grad():
        model.lm_head.weight.copy_(model.model.embed_tokens.weight)
    assert tensor_types(model, "Q4_0")["model.embed_tokens.weight"] == "Q8_0"


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2), "transformer.wpe.weight"),
        (
            MixtralConfig(**SMALL, hidden_size=32, intermediate_size=32, num_local_experts=2),
            "mlp.gate.weight",
        ),
    ],
)
def test_weights_of_another_kind_are_refused_by_name(config, told):
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(TrainingError, match=f"{config.model_type}: .*{told}.* is neither"):
        tensor_types(model, "Q4_0")
