import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from potstill.errors import ArtifactError
from train.states import WHOLE_NAME, load_trained, newest_whole_state, remove_other_states


def state(directory, step, whole):
    path = directory / f"checkpoint-{step}"
    path.mkdir()
    (path / "model.safetensors").write_bytes(b"weights")
    if whole:
        (path / WHOLE_NAME).touch()
    return path


def test_only_whole_states_count(tmp_path):
    state(tmp_path, 90, whole=True)
    newest = state(tmp_path, 100, whole=True)
    state(tmp_path, 110, whole=False)
    assert newest_whole_state(tmp_path) == newest
    remove_other_states(tmp_path)
    assert list(tmp_path.iterdir()) == [newest]


def test_without_a_whole_state_training_begins_anew(tmp_path):
    state(tmp_path, 10, whole=False)
    assert newest_whole_state(tmp_path) is None
    assert newest_whole_state(tmp_path / "absent") is None
    remove_other_states(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_trained_weights_of_another_model_are_refused(tmp_path):
    path = tmp_path / "last.safetensors"
    model = nn.Linear(2, 1)
    model.weight.requires_grad_(False)
    save_file({"bias": torch.ones(1)}, path)
    load_trained(model, path)
    assert model.bias.item() == 1.0
    weight = torch.ones(1, 2)
    for content in (
        {"bias": torch.ones(1), "other": weight},
        {"bias": torch.ones(2)},
        {"weight": weight},
    ):
        save_file(content, path)
        with pytest.raises(ArtifactError, match="trained weights cannot be read"):
            load_trained(model, path)
    path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(ArtifactError, match="trained weights cannot be read"):
        load_trained(model, path)
