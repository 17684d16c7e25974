"""Stages on another device than the CPU, whose tensors may not be mixed with a CPU's."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification

from tests.fixtures import other_device

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


QUANTIZE = {
    "types": ["F16", "Q8_0"],
    "teacher_types": ["Q8_0"],
    "verification_tokens": 40,
    "num_threads": 1,
}


@pytest.fixture
def reward_dir(tiny_teacher_dir, tmp_path) -> Path:
    """The tiny teacher with a random head that scores."""
    directory = tmp_path / "reward"
    shutil.copytree(tiny_teacher_dir, directory)
    model = AutoModelForSequenceClassification.from_pretrained(directory, num_labels=1)
    model.save_pretrained(directory)
    return directory


def test_nothing_mixes_a_gpus_tensors_with_a_cpus(tiny_run, reward_dir, tmp_path):
    """Results are those of the CPU. tests/fixtures/other_device.py stands in for a GPU."""
    roots = {way: str(shutil.copytree(tiny_run.root, tmp_path / way)) for way in (*WAYS, "cpu")}
    jobs = {way: ["train", roots[way], SETTINGS | changes] for way, changes in WAYS.items()}
    jobs["files"] = ["quantize", roots["padded"], QUANTIZE]
    jobs["reward"] = ["reward", str(reward_dir)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fixtures.other_device"],
        cwd=ROOT,
        input="\n".join(map(json.dumps, jobs.values())),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = dict(zip(jobs, map(json.loads, done.stdout.splitlines()), strict=True))
    expected = {
        "padded": other_device.train(roots["cpu"], SETTINGS),
        "files": other_device.quantize(roots["cpu"], QUANTIZE),
        "reward": other_device.reward(str(reward_dir)),
    }
    for name, value in expected.items():
        assert results[name] == pytest.approx(value, rel=1e-5, abs=1e-9), name
