"""The train stage in two processes on a CPU, which accelerate launches and gloo connects."""

import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from potstill.errors import ConfigError
from train.config import TrainConfig
from train.stage import run

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = {
    "student": {"num_layers": 3},
    "dtype": "float32",
    "kd": {"weight": 0.7},
    "freeze": {"embeddings": False},
    "learning_rate": 1e-3,
    "max_steps": 7,
    "save_steps": 2,
    "logging_steps": 1,
    "batch_size": 4,
    "evaluation": {"every_steps": 4, "num_generations": 1, "max_new_tokens": 4},
}


@pytest.fixture(autouse=True)
def _few_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def config(**changes):
    return TrainConfig.model_validate(SETTINGS | {"launch": "ddp"} | changes)


def metrics(run_directory, name):
    lines = map(json.loads, run_directory.metrics_path.read_text().splitlines())
    return {line["step"]: line[name] for line in lines if name in line}


def weights(run_directory):
    return load_file(run_directory.stage_dir("student") / "model.safetensors")


def copied(run_directory, root):
    shutil.copytree(run_directory.root, root)
    return type(run_directory)(root)


def processes_of(run_directory):
    """The processes that train for a run, by what they were started with."""
    scratch_dir = str(run_directory.partial_dir("student") / "scratch").encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if scratch_dir in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("changes", [{}, {"method": "lora"}])
def test_two_processes_train_as_one_does_on_twice_the_batch(tiny_run, tmp_path, changes):
    """At every step of three epochs, to rounding: order, shares, normalization and clipping."""
    alone = copied(tiny_run, tmp_path / "alone")
    expected = run(config(launch=None, batch_size=8, **changes), alone)
    manifest = run(config(**changes), tiny_run)
    for name in ("loss", "kd_nats", "ce_nats", "grad_norm", "eval_loss"):
        found = metrics(tiny_run, name)
        assert len(found) == (7 if name != "eval_loss" else 2)
        assert found == pytest.approx(metrics(alone, name), rel=1e-5)
    assert manifest.stats["train_tokens"] == expected.stats["train_tokens"]
    for name, tensor in weights(alone).items():
        torch.testing.assert_close(weights(tiny_run)[name], tensor, rtol=1e-3, atol=1e-4)
    generations_path = tiny_run.stage_dir("student") / "generations.jsonl"
    assert [json.loads(line)["step"] for line in generations_path.open()] == [4, 7]


@pytest.mark.parametrize("changes", [{}, {"method": "lora"}])
def test_two_processes_share_out_the_student(tiny_run, tmp_path, monkeypatch, changes):
    """FSDP2 on a CPU: what one process does on twice the batch, and saves, head included."""
    alone = copied(tiny_run, tmp_path / "alone")
    run(config(launch=None, batch_size=8, **changes), alone)
    fixture_dir = Path(__file__).parent.parent / "fixtures" / "fsdp_on_cpu"
    monkeypatch.setenv("PYTHONPATH", str(fixture_dir))
    run(config(launch="fsdp2", **changes), tiny_run)
    for name in ("loss", "kd_nats", "ce_nats", "grad_norm", "eval_loss"):
        assert metrics(tiny_run, name) == pytest.approx(metrics(alone, name), rel=1e-5)
    for name, tensor in weights(alone).items():
        torch.testing.assert_close(weights(tiny_run)[name], tensor, rtol=1e-3, atol=1e-4)


def test_a_killed_stage_takes_its_processes_along_and_goes_on(tiny_run, tmp_path, kill_a_run):
    whole = copied(tiny_run, tmp_path / "whole")
    finished = run(config(), whole)

    def several_are_at_work():
        assert len(processes_of(tiny_run)) >= 3

    kill_a_run(tiny_run, config(), "offline", 4, before=several_are_at_work)
    deadline = time.monotonic() + 10
    while processes_of(tiny_run):
        assert time.monotonic() < deadline
        time.sleep(0.1)

    resumed = run(config(), tiny_run)
    assert metrics(tiny_run, "loss") == pytest.approx(metrics(whole, "loss"), rel=1e-6)
    assert resumed.stats["train_tokens"] == finished.stats["train_tokens"]
    assert resumed.facts == finished.facts
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(tiny_run)[name], tensor)


def test_an_error_in_one_process_is_the_error_of_the_stage(tiny_run, stage_process):
    """A limit on the size of files stands in for a full disk; only the first process writes."""
    process = stage_process(tiny_run, config(), max_file_bytes=1 << 20, stderr=subprocess.PIPE)
    _, stderr = process.communicate(timeout=240)
    assert process.returncode == 1
    assert b"potstill.errors.ArtifactError: the training state cannot be saved" in stderr
    assert b"hint: free disk space" in stderr
    assert b"ChildFailedError" not in stderr
    assert not processes_of(tiny_run)


def test_an_unknown_launch_is_refused_before_anything_is_done(tiny_run):
    with pytest.raises(ConfigError, match="no such configuration of accelerate") as caught:
        run(config(launch="horovod"), tiny_run)
    assert "ddp, deepspeed, fsdp2" in str(caught.value)
    assert not tiny_run.partial_dir("student").exists()
    with pytest.raises(ConfigError, match="DeepSpeed is not installed"):
        run(config(launch="deepspeed"), tiny_run)
