import pytest

from potstill.errors import TrainingError
from train.students.pruning.agreement import refuse_other_config
from train.students.pruning.layers import decoder_layers, keep_layers
from train.students.pruning.width import keep_neurons

FAMILIES = [
    "llama",
    "smollm3",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "phi3",
    "hunyuan_v1_dense",
]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pruned_model_is_what_its_config_says(make_model, reloaded, family):
    model = reloaded(make_model(family, num_hidden_layers=4))
    keep_layers(model, [0, 2, 3])
    if family != "phi3":
        keep_neurons(model, [range(8)] * 3)
    refuse_other_config(model)


def test_layers_that_depend_on_their_number_are_refused(make_model):
    """DiffLlama computes a constant of each layer's attention from the layer's number."""
    model = make_model("diffllama")
    refuse_other_config(model)
    keep_layers(model, [0, 2])
    with pytest.raises(TrainingError, match=r"layers\.1\.self_attn\.lambda_init"):
        refuse_other_config(model)


@pytest.mark.parametrize("change", ["width", "layers", "rope"])
def test_a_config_that_lies_is_refused(make_model, change):
    model = make_model("smollm3", num_hidden_layers=4)
    if change == "width":
        keep_neurons(model, [range(8)] * 4)
        model.config.intermediate_size = 32
    elif change == "layers":
        keep_layers(model, [0, 1, 2])
        model.config.num_hidden_layers = 4
        model.config.no_rope_layers = [*model.config.no_rope_layers, 1]
        model.config.layer_types = [*model.config.layer_types, "full_attention"]
    else:
        keep_layers(model, [0, 1, 3])
        model.config.no_rope_layers = [1, 1, 1]
    with pytest.raises(TrainingError, match="cannot be pruned"):
        refuse_other_config(model)
    assert len(decoder_layers(model)) in (3, 4)
