import math

import pytest
import torch
from peft import PeftModel, get_peft_model
from pydantic import ValidationError

from potstill.errors import TrainingError
from train.config import LoRAConfig, TrainConfig
from train.students.adapters import adapter_config, merge_adapters, save_adapter
from train.students.checkpoints import load_model
from train.students.checks import logits_of

TOKEN_IDS = [1, 70, 800, 9, 1000]
VARIANTS = [{}, {"use_rslora": True}, {"use_dora": True}, {"use_rslora": True, "use_dora": True}]


@pytest.fixture
def make_adapted(tiny_teacher_dir):
    """Return a function that puts adapters on the tiny teacher, as if they had been trained."""

    def make(**settings) -> PeftModel:
        torch.manual_seed(0)
        config = adapter_config(LoRAConfig(rank=4, alpha=8, **settings))
        model = get_peft_model(load_model(tiny_teacher_dir), config)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
            elif "magnitude" in name:
                parameter.data *= 1.3
        return model

    return make


@pytest.mark.parametrize("settings", VARIANTS)
def test_merged_weights_compute_what_adapters_did(make_adapted, tiny_teacher_dir, settings):
    model = make_adapted(**settings)
    adapted = logits_of(model, TOKEN_IDS)
    plain = logits_of(load_model(tiny_teacher_dir), TOKEN_IDS)
    assert (adapted - plain).abs().max() > 0.1
    merged = merge_adapters(model, TOKEN_IDS)
    torch.testing.assert_close(logits_of(merged, TOKEN_IDS), adapted, atol=1e-3, rtol=1e-4)
    assert not isinstance(merged, PeftModel)
    expected = dict(load_model(tiny_teacher_dir).named_parameters())
    found = dict(merged.named_parameters())
    assert {name: one.shape for name, one in found.items()} == {
        name: one.shape for name, one in expected.items()
    }
    assert {one.dtype for one in found.values()} == {torch.float32}


@pytest.mark.parametrize("settings", VARIANTS)
def test_a_wrong_merge_is_caught(make_adapted, settings):
    """Planted: what is merged has one adapter, of one layer, at half its size."""
    model = make_adapted(**settings)
    merge = model.merge_and_unload

    def merge_wrongly(**options):
        layer = model.get_base_model().model.layers[2].mlp.up_proj
        layer.lora_B["default"].weight.data *= 0.5
        return merge(**options)

    model.merge_and_unload = merge_wrongly
    with pytest.raises(TrainingError, match=r"merged model .*\n(.*\n)*  found: a difference"):
        merge_adapters(model, TOKEN_IDS)


@pytest.mark.parametrize("settings", VARIANTS[:2])
def test_a_saved_adapter_on_its_base_computes_the_same(
    make_adapted, tiny_teacher_dir, tmp_path, settings
):
    model = make_adapted(**settings)
    save_adapter(model, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    read = PeftModel.from_pretrained(load_model(tiny_teacher_dir), tmp_path)
    assert not read.peft_config["default"].use_rslora
    torch.testing.assert_close(logits_of(read, TOKEN_IDS), logits_of(model, TOKEN_IDS))


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ({"method": "full"}, 'method = "lora"'),
        ({"lora": {"merge": False, "use_dora": True}}, "use_dora needs merge = true"),
        ({"quantization_aware": {"type": "Q4_0"}}, "no quantization_aware"),
        ({"save_dtype": "bfloat16"}, 'save_dtype = "float32"'),
        ({"student": {"intermediate_size": 32}}, r"no student\.intermediate_size"),
    ],
)
def test_settings_that_need_a_merged_adapter_are_refused(settings, missing):
    kept = {"method": "lora", "lora": {"merge": False}}
    assert TrainConfig.model_validate(kept).keeps_adapter
    with pytest.raises(ValidationError, match=missing):
        TrainConfig.model_validate(kept | settings)


def test_rank_stabilized_adapters_are_scaled_by_the_root_of_the_rank(make_adapted):
    scalings = [
        make_adapted(use_rslora=one).get_base_model().model.layers[0].mlp.up_proj.scaling["default"]
        for one in (False, True)
    ]
    assert scalings == pytest.approx([8 / 4, 8 / math.sqrt(4)])


def test_adapters_are_on_every_linear_layer_but_the_head(make_adapted):
    names = [name for name, _ in make_adapted().named_parameters() if "lora_A" in name]
    attention, mlp = {"q_proj", "k_proj", "v_proj", "o_proj"}, {"gate_proj", "up_proj", "down_proj"}
    assert {name.split(".")[-4] for name in names} == attention | mlp
    assert len(names) == 4 * 7
