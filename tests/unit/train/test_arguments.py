import torch

from train.arguments import shared_arguments
from train.config import TrainConfig
from train.students.plan import device, fast_dtype


def test_a_gpu_is_found_and_its_settings_are_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert device() == "cuda"
    assert fast_dtype("auto") == torch.bfloat16
    arguments = shared_arguments(TrainConfig(), tmp_path)
    assert not arguments["use_cpu"]
    assert arguments["dataloader_pin_memory"]
    assert arguments["bf16"]


def test_apples_gpu_is_found_and_trains_in_float32(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert device() == "mps"
    assert fast_dtype("auto") == torch.float32
    assert fast_dtype("bfloat16") == torch.bfloat16
    arguments = shared_arguments(TrainConfig(), tmp_path)
    assert not arguments["use_cpu"]
    assert not arguments["dataloader_pin_memory"]
    assert not arguments["bf16"]
