import pytest
import torch

from train import speed
from train.speed import Mlp, bytes_per_second, shortest_seconds, training_flops


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(speed, "SECONDS", 0.02)
    monkeypatch.setattr(speed, "NUM_COPIED", 1000)


def test_the_shortest_time_of_several_counts(monkeypatch):
    clock = iter([0.0, 0.0, 0.004, 0.005, 0.006, 0.009, 0.03])
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    calls = []
    assert shortest_seconds(lambda: calls.append(1)) == pytest.approx(0.003)
    assert len(calls) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_forward_and_backward_passes_are_counted(monkeypatch, dtype):
    layers = Mlp(16, 32)
    passes = []
    layers.register_full_backward_hook(lambda *_: passes.append(layers.up.weight.dtype))

    def once(work):
        work()
        return 0.5

    monkeypatch.setattr(speed, "shortest_seconds", once)
    num_weights = 3 * 16 * 32 + 16
    assert training_flops(layers, 16, dtype) == 6 * num_weights * speed.NUM_TOKENS / 0.5
    assert len(passes) == 1
    assert layers.up.weight.grad is None


def test_a_copy_reads_and_writes(monkeypatch):
    monkeypatch.setattr(speed, "shortest_seconds", lambda work: work() is None or 0.5)
    assert bytes_per_second() == 2 * 4 * 1000 / 0.5
