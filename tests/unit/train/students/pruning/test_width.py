import logging
import re

import pytest
import torch

from potstill.errors import TrainingError
from train.students.pruning.layers import decoder_layers, keep_layers
from train.students.pruning.width import (
    gated_mlps,
    keep_neurons,
    most_important,
    neuron_importance,
    warn_of_odd_size,
)

FAMILIES = ["llama", "smollm3", "qwen2", "qwen3", "gemma2", "gemma3_text", "mistral"]
DEAD = 5


@pytest.mark.parametrize("family", FAMILIES)
def test_a_narrower_model_computes_alike_without_its_dead_neurons(
    make_model, conversations, reloaded, family
):
    """Neurons that feed nothing are planted; without them the model is the same, also reloaded."""
    model = make_model(family)
    for layer in decoder_layers(model):
        layer.mlp.down_proj.weight.data[:, DEAD:] = 0.0
    before = model(conversations[0][None]).logits
    keep_neurons(model, [range(DEAD)] * 3)
    assert model.config.intermediate_size == DEAD
    assert [mlp.num_neurons for mlp in gated_mlps(model)] == [DEAD] * 3
    torch.testing.assert_close(model(conversations[0][None]).logits, before)
    again = reloaded(model)
    torch.testing.assert_close(again(conversations[0][None]).logits, before)
    texts = [
        again.generate(
            conversations[0][None], max_new_tokens=8, do_sample=False, use_cache=use_cache
        )
        for use_cache in (True, False)
    ]
    assert torch.equal(*texts)


def test_a_planted_dead_neuron_is_the_first_to_go(make_model, conversations):
    model = make_model("llama")
    mlp = decoder_layers(model)[1].mlp
    mlp.up_proj.weight.data[DEAD] = 0.0
    importance = neuron_importance(model, conversations)
    assert importance[1][DEAD] == 0.0
    kept = most_important(importance[1], 31)
    assert kept == [index for index in range(32) if index != DEAD]


def test_importance_is_the_norm_over_conversations_of_means_over_tokens(make_model, conversations):
    model = make_model("qwen2")
    means = []
    for token_ids in conversations:
        seen = []
        mlp = decoder_layers(model)[2].mlp
        handle = mlp.down_proj.register_forward_pre_hook(
            lambda _, inputs, seen=seen: seen.append(inputs[0])
        )
        model(token_ids[None])
        handle.remove()
        means.append([float(one) for one in seen[0][0].detach().abs().mean(0)])
    expected = [sum(mean[neuron] ** 2 for mean in means) ** 0.5 for neuron in range(32)]
    found = neuron_importance(model, conversations)[2]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_the_order_of_neurons_changes_nothing(make_model, conversations):
    """Biases go with their neurons."""
    logits = []
    for order in ([3, 1, 30, 8], [1, 3, 8, 30]):
        model = make_model("llama", mlp_bias=True)
        for mlp in gated_mlps(model):
            mlp.gate.bias.data = torch.linspace(-1.0, 1.0, 32)
            mlp.up.bias.data = torch.linspace(1.0, -2.0, 32)
        keep_neurons(model, [order] * 3)
        logits.append(model(conversations[0][None]).logits)
    torch.testing.assert_close(*logits)


def test_the_lower_of_equal_neurons_stay():
    assert most_important(torch.tensor([1.0, 2.0, 1.0, 1.0]), 2) == [0, 1]


def test_layers_and_neurons_can_both_go(make_model, conversations, reloaded):
    model = make_model("qwen3")
    keep_layers(model, [0, 2])
    keep_neurons(model, [[1, 2, 3], [7, 8, 9]])
    logits = model(conversations[0][None]).logits
    torch.testing.assert_close(reloaded(model)(conversations[0][None]).logits, logits)
    trained = sum(parameter.numel() for parameter in model.parameters())
    assert trained == reloaded(model).num_parameters()


GEMMA_3N = {
    "hidden_size_per_layer_input": 8,
    "laurel_rank": 4,
    "num_kv_shared_layers": 0,
    "vocab_size_per_layer_input": 50,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "activation_sparsity_pattern": [0.0] * 3,
}


@pytest.mark.parametrize(
    ("family", "found", "changes"),
    [
        ("phi3", "gate_up_proj", {}),
        ("qwen3_moe", "experts", {"num_experts": 2}),
        ("starcoder2", "c_fc", {}),
        ("gemma3n_text", r"intermediate_size \[32, 32, 32\]", GEMMA_3N),
    ],
)
def test_other_mlps_are_refused_by_name(make_model, family, found, changes):
    model = make_model(family, **changes)
    with pytest.raises(TrainingError, match=found) as caught:
        gated_mlps(model)
    assert type(model).__name__ in str(caught.value)


@pytest.mark.parametrize(
    ("size", "told"),
    [
        (1536, None),
        (1120, "not a multiple of 256: K-quants .* are 1024 or 1280"),
        (1000, "not a multiple of 32: .* are 992 or 1024"),
        (20, "not a multiple of 32: .* are 32"),
    ],
)
def test_sizes_that_quantize_badly_are_told(caplog, size, told):
    with caplog.at_level(logging.WARNING):
        warn_of_odd_size(size)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == (0 if told is None else 1)
    assert told is None or re.search(told, messages[0])
