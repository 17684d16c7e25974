import logging

import torch

from quantize import loading


def test_a_checkpoint_that_the_gpu_cannot_hold_is_evaluated_on_the_processor(
    make_checkpoint, monkeypatch, caplog
):
    to, asked = torch.nn.Module.to, []

    def full(model, device, **_):
        asked.append(device)
        if device == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return to(model, device)

    monkeypatch.setattr(loading, "device", lambda: "cuda")
    monkeypatch.setattr(torch.nn.Module, "to", full)
    with caplog.at_level(logging.INFO):
        model = loading.load_model(make_checkpoint())
    assert asked == ["cuda", "cpu"]
    assert "does not fit the GPU" in caplog.text
    assert model(torch.tensor([[1, 2]])).logits.isfinite().all()


def test_a_gpu_is_taken_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert loading.device() == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert loading.device() == "cpu"
