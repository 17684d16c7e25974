import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from train.quantization_aware.blocks import read_back
from train.quantization_aware.weights import Quantization

TOKENS = torch.tensor([[1, 5, 9, 3]])


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    return AutoModelForCausalLM.from_config(config)


def copy_of(model):
    return {name: one.detach().clone() for name, one in model.named_parameters()}


def test_a_model_computes_with_what_the_file_holds_and_gets_its_weights_back(model):
    quantization = Quantization.of(model, "Q4_0", "float32")
    before = copy_of(model)
    file = AutoModelForCausalLM.from_config(model.config)
    read = {
        name: read_back(one, quantization.types[name])
        for name, one in before.items()
        if name in quantization.types
    }
    file.load_state_dict(before | read, strict=False)
    file.tie_weights()
    with quantization.applied(model):
        torch.testing.assert_close(model(TOKENS).logits, file(TOKENS).logits, rtol=0, atol=0)
    after = copy_of(model)
    assert all(torch.equal(after[name], one) for name, one in before.items())


def test_weights_come_back_after_an_error(model):
    before = copy_of(model)
    with pytest.raises(RuntimeError), Quantization.of(model, "Q4_0", "float32").applied(model):
        raise RuntimeError
    assert all(torch.equal(one, before[name]) for name, one in model.named_parameters())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_at_the_quantized_weights(model, checkpointing):
    quantization = Quantization.of(model, "Q4_0", "float32")
    twin = AutoModelForCausalLM.from_config(model.config)
    twin.load_state_dict(model.state_dict())
    quantization.replace_weights(twin)
    twin(TOKENS, labels=TOKENS).loss.backward()
    if checkpointing:
        model.train().gradient_checkpointing_enable()
    with quantization.applied(model):
        model(TOKENS, labels=TOKENS).loss.backward()
    expected = {name: one.grad for name, one in twin.named_parameters()}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])


def test_weights_saved_in_16_bits_are_rounded_to_them_first(model):
    name = "model.layers.0.mlp.up_proj.weight"
    full = copy_of(model)[name]
    with Quantization.of(model, "Q8_0", "bfloat16").applied(model):
        found = model.get_parameter(name).detach().clone()
    assert torch.equal(found, read_back(full.bfloat16().float(), "Q8_0"))
    assert not torch.equal(found, read_back(full, "Q8_0"))


def test_some_are_left_as_they_are(model):
    name = "model.embed_tokens.weight"
    quantization = Quantization.of(model, "Q4_0", "float32").without({name})
    full = copy_of(model)
    quantization.replace_weights(model)
    kept = {one for one, weights in model.named_parameters() if torch.equal(weights, full[one])}
    vectors = {one for one, weights in full.items() if weights.ndim == 1}
    assert kept == vectors | {name}
