import json
from types import SimpleNamespace

import pytest

from train.callbacks import ProgressCallback


def state(**changes):
    before = {"is_world_process_zero": True, "global_step": 0, "max_steps": 4}
    return SimpleNamespace(**before | {"num_input_tokens_seen": 0} | changes)


def logged(path, steps_before=0, **changes):
    with ProgressCallback("on_policy", path, steps_before) as callback:
        callback.on_train_begin(None, state(**changes), None)
        for step, logs in enumerate(
            [
                {"loss": 2.5, "grad_norm": 1.0, "epoch": 0.5, "num_input_tokens_seen": 9},
                {"eval_loss": 1.5, "eval_kl_nats": 0.5, "epoch": 0.5},
                {"train_loss": 2.0, "train_runtime": 9.0},
            ],
            start=1,
        ):
            callback.on_log(None, state(global_step=step, **changes), None, logs)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_lines_of_training_and_of_measurements_are_written(tmp_path):
    training, measurement = logged(tmp_path / "metrics.jsonl", steps_before=10)
    common = {"stage", "phase", "step", "time"}
    assert set(training) == common | {"loss", "grad_norm", "tokens_per_second"}
    assert set(measurement) == common | {"eval_loss", "eval_kl_nats"}
    assert (training["step"], measurement["step"]) == (11, 12)
    assert training["phase"] == "on_policy"


@pytest.mark.parametrize("first", [True, False])
def test_only_the_first_process_writes(tmp_path, first):
    lines = logged(tmp_path / "metrics.jsonl", is_world_process_zero=first)
    assert bool(lines) == first
