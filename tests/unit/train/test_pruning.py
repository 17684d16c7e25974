import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from potstill.errors import TrainingError
from train.pruning import block_influence, decoder_layers, least_influential, remove_layers


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=5,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.5,
    )
    return LlamaForCausalLM(config).eval()


def make_identity(layer):
    torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
    torch.nn.init.zeros_(layer.mlp.down_proj.weight)


def batch(padding=0):
    ids = torch.randint(0, 50, (2, 12), generator=torch.Generator().manual_seed(1))
    ids = torch.nn.functional.pad(ids, (0, padding))
    mask = torch.ones_like(ids)
    mask[:, 12:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def test_a_planted_identity_layer_is_found(model):
    make_identity(decoder_layers(model)[2])
    influence = block_influence(model, [batch()])
    assert len(influence) == 5
    assert influence[2] == pytest.approx(0.0, abs=1e-6)
    assert min(value for index, value in enumerate(influence) if index != 2) > 0.01
    assert least_influential(influence, 4) == [2]


def test_influence_ignores_padding(model):
    padded = block_influence(model, [batch(padding=3)])
    assert padded == pytest.approx(block_influence(model, [batch()]), abs=1e-5)


def test_removing_identity_layers_changes_nothing_but_the_size(model, tmp_path):
    for index in (1, 3):
        make_identity(decoder_layers(model)[index])
    inputs = batch()
    before = model(**inputs).logits
    model.config.layer_types = ["a", "b", "c", "d", "e"]
    remove_layers(model, [1, 3])
    assert model.config.num_hidden_layers == len(decoder_layers(model)) == 3
    assert model.config.layer_types == ["a", "c", "e"]
    assert [layer.self_attn.layer_idx for layer in decoder_layers(model)] == [0, 1, 2]
    del model.config.layer_types
    torch.testing.assert_close(model(**inputs).logits, before)
    model.save_pretrained(tmp_path)
    reloaded = LlamaForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(reloaded(**inputs).logits, before)
    cached = reloaded.generate(inputs["input_ids"], max_new_tokens=4, do_sample=False)
    plain = reloaded.generate(
        inputs["input_ids"], max_new_tokens=4, do_sample=False, use_cache=False
    )
    assert torch.equal(cached, plain)


@pytest.mark.parametrize("num_kept", [0, 3, 4])
def test_impossible_sizes_are_refused(num_kept):
    with pytest.raises(TrainingError, match=r"1 to 2 .*\n  found"):
        least_influential([0.1, 0.2, 0.3], num_kept)
