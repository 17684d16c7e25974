import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from potstill.errors import TrainingError
from train.students.checkpoints import load_model, reload_student, save_student
from train.students.checks import logits_of

TOKEN_IDS = [1, 70, 800, 9, 1000]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_student_comes_back(tiny_teacher_dir, tmp_path, dtype):
    model = load_model(tiny_teacher_dir)
    save_student(model, tmp_path, tiny_teacher_dir, dtype)
    reloaded = reload_student(tmp_path, model.float(), TOKEN_IDS)
    assert torch.equal(logits_of(reloaded, TOKEN_IDS), logits_of(model, TOKEN_IDS))
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == str(dtype)[6:]
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / name).read_bytes() == (tiny_teacher_dir / name).read_bytes()


def test_one_changed_weight_is_caught(tiny_teacher_dir, tmp_path):
    model = load_model(tiny_teacher_dir)
    save_student(model, tmp_path, tiny_teacher_dir, torch.float32)
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.layers.3.mlp.up_proj.weight"][5, 7] += 0.5
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        TrainingError, match="does not compute the same as the trained one"
    ) as caught:
        reload_student(tmp_path, model, TOKEN_IDS)
    assert caught.value.where == tmp_path


def test_a_student_that_diverged_is_called_so(tiny_teacher_dir, tmp_path):
    model = load_model(tiny_teacher_dir)
    model.model.norm.weight.data[0] = float("nan")
    save_student(model, tmp_path, tiny_teacher_dir, torch.float32)
    with pytest.raises(TrainingError, match="training diverged"):
        reload_student(tmp_path, model, TOKEN_IDS)


def test_a_checkpoint_without_a_weight_is_refused(tiny_teacher_dir, tmp_path):
    model = load_model(tiny_teacher_dir)
    save_student(model, tmp_path, tiny_teacher_dir, torch.float32)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.3.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingError, match=r"no model\.layers\.3\.mlp\.up_proj\.weight"):
        load_model(tmp_path)
