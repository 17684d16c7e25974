"""The train stage on another device than the CPU, whose tensors may not be mixed with a CPU's."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from potstill.rundir import RunDirectory
from train.config import TrainConfig
from train.stage import run

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "student": {"num_layers": 3},
    "dtype": "float32",
    "kd": {"weight": 0.7},
    "learning_rate": 1e-3,
    "max_steps": 2,
    "batch_size": 4,
    "evaluation": {"every_steps": 1, "patience": 3, "num_generations": 1, "max_new_tokens": 3},
}
WAYS = {
    "padded": {},
    "packed": {
        "packing": True,
        "gradient_checkpointing": True,
        "freeze": {"embeddings": False},
    },
    "adapters": {"method": "lora"},
    "narrower": {"student": {"num_layers": 3, "layers": "influence", "intermediate_size": 48}},
    "quantized": {"quantization_aware": {"type": "Q4_0", "max_steps": 2}},
    "on its own answers": {
        "on_policy": {"max_steps": 1, "batch_size": 2, "max_completion_tokens": 4}
    },
}


def test_no_step_of_training_mixes_a_gpus_tensors_with_a_cpus(tiny_run, tmp_path):
    """The loss is that of the CPU. tests/fixtures/other_device.py stands in for a GPU."""
    jobs = []
    for way, changes in WAYS.items():
        copy = tmp_path / way
        shutil.copytree(tiny_run.root, copy)
        jobs.append(json.dumps([str(copy), SETTINGS | changes]))
    done = subprocess.run(
        [sys.executable, "-m", "tests.fixtures.other_device"],
        cwd=ROOT,
        input="\n".join(jobs),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    losses = dict(zip(WAYS, map(json.loads, done.stdout.splitlines()), strict=True))
    shutil.copytree(tiny_run.root, tmp_path / "cpu")
    manifest = run(TrainConfig.model_validate(SETTINGS), RunDirectory(tmp_path / "cpu"))
    assert losses["padded"] == pytest.approx(manifest.facts.evaluation.trained.loss_nats, rel=1e-6)
