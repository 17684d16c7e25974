import pytest

from potstill.checkpoints import IN_LAYER, ModelShape
from potstill.config import preset_names
from potstill.models.preset_models import PRESET_MODELS
from potstill.pipeline import Choice, resolve

PUBLISHED = {"0.5B": 0.494e9, "7B": 7.62e9, "72B": 72.7e9}


@pytest.mark.parametrize("name", PRESET_MODELS)
def test_the_parameters_are_those_that_transformers_makes_of_the_config(name):
    import re

    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    model = PRESET_MODELS[name]
    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(Qwen2Config(**model.config))
    sizes = {key: one.numel() for key, one in made.named_parameters()}
    assert model.num_parameters == sum(sizes.values()) == made.num_parameters()
    assert model.layer_parameters == sum(
        size for key, size in sizes.items() if re.search(IN_LAYER, key)
    )
    size = name.split("-")[1]
    assert model.num_parameters == pytest.approx(PUBLISHED[size], rel=1e-3)


def test_every_model_of_the_hub_that_a_preset_names_is_known(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    named = set()
    for preset in preset_names():
        tables = resolve(Choice(preset))
        named |= {tables["generate"].teacher.model, tables["train"].student.checkpoint}
    assert {name for name in named if name and "/" in name} == set(PRESET_MODELS)
    shape = ModelShape.find("Qwen/Qwen2.5-7B-Instruct", "generate.teacher.model")
    assert (shape.architecture, shape.num_layers) == ("Qwen2ForCausalLM", 28)
    assert shape.num_parameters == 7_615_616_512
    assert shape.kv_size == 2 * 4 * 128
    assert shape.bytes_to_fetch == 2 * shape.num_parameters
    elsewhere = ModelShape.find("Qwen/Qwen2.5-7B-Instruct", "key", with_weights=False)
    assert (elsewhere.num_parameters, elsewhere.bytes_to_fetch) == (0, 0)
