"""The train stage in two processes on a CPU, which accelerate launches and gloo connects."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from potstill.errors import ConfigError
from train.config import TrainConfig
from train.stage import run

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
RUN_STAGE = """
import json, sys
from pathlib import Path
from potstill.rundir import RunDirectory
from train.config import TrainConfig
from train.stage import run
run(TrainConfig.model_validate(json.loads(sys.argv[2])), RunDirectory(Path(sys.argv[1])))
"""


@pytest.fixture(autouse=True)
def _few_threads(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    torch.set_num_threads(before)


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


def stage_process(run_directory, script, stderr):
    return subprocess.Popen(
        [sys.executable, "-c", script, str(run_directory.root), config().model_dump_json()],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=stderr,
    )


def wait_until(condition, process):
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("changes", [{}, {"method": "lora"}])
def test_two_processes_train_as_one_does_on_twice_the_batch(tiny_run, tmp_path, changes):
    """At every step of three epochs, to rounding: order, shares, normalisation and clipping."""
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
