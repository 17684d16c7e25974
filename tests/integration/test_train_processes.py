"""The train stage in two processes on a CPU, which accelerate launches and gloo connects."""

import functools
import json
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from potstill.errors import ArtifactError, ConfigError
from potstill.rundir import RunDirectory
from tests.fixtures.devices import ON_GPU, alike, for_two
from tests.fixtures.waiting import eventually
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
ROUNDING = 1e-4 if ON_GPU else 1e-6


@pytest.fixture(autouse=True)
def _few_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def config(**changes):
    settings = SETTINGS | {"launch": "ddp"} | changes
    return TrainConfig.model_validate(settings | {"launch": for_two(settings["launch"])})


def metrics(run_directory, name):
    lines = map(json.loads, run_directory.metrics_path.read_text().splitlines())
    return {line["step"]: line[name] for line in lines if name in line}


def weights(run_directory):
    return load_file(run_directory.stage_dir("student") / "model.safetensors")


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


@pytest.fixture(scope="module")
def trained(tiny_teacher_dir, tiny_conversations, finish_conversations, tmp_path_factory):
    """Return a function that trains once with some settings; it returns the run and its result."""

    @functools.cache
    def train(**changes):
        run_directory = RunDirectory(tmp_path_factory.mktemp("trained") / "run")
        finish_conversations(run_directory, tiny_teacher_dir, tiny_conversations)
        return run_directory, run(config(**changes), run_directory)

    return train


@pytest.mark.parametrize(
    ("launch", "method"),
    [
        ("ddp", "full"),
        ("fsdp2", "lora"),
        pytest.param("ddp", "lora", marks=pytest.mark.nightly),
        pytest.param("fsdp2", "full", marks=pytest.mark.nightly),
    ],
)
@pytest.mark.usefixtures("on_one_device")
def test_two_processes_train_as_one_does_on_twice_the_batch(trained, launch, method):
    """At every step of three epochs, to rounding: order, shares, normalization and clipping."""
    alone, expected = trained(launch=None, batch_size=8, method=method)
    together, manifest = trained(launch=launch, method=method)
    counts = {"loss": 7, "kd_nats": 7, "ce_nats": 7, "grad_norm": 7, "eval_loss": 2}
    for name, count in counts.items():
        found = metrics(together, name)
        assert len(found) == count
        assert found == pytest.approx(metrics(alone, name), rel=10 * ROUNDING)
    assert manifest.stats["train_tokens"] == expected.stats["train_tokens"]
    for name, tensor in weights(alone).items():
        torch.testing.assert_close(weights(together)[name], tensor, rtol=1e-3, atol=1e-4)
    generations_path = together.stage_dir("student") / "generations.jsonl"
    assert [json.loads(line)["step"] for line in generations_path.open()] == [4, 7]


@pytest.mark.usefixtures("on_one_device")
def test_a_killed_stage_takes_its_processes_along_and_goes_on(tiny_run, trained, kill_a_run):
    whole, finished = trained(launch="ddp", method="full")

    def several_are_at_work():
        assert len(processes_of(tiny_run)) >= 3

    kill_a_run(tiny_run, config(), "offline", 4, before=several_are_at_work)
    deadline = time.monotonic() + 10
    while processes_of(tiny_run):
        assert time.monotonic() < deadline
        time.sleep(0.1)

    resumed = run(config(), tiny_run)
    assert metrics(tiny_run, "loss") == pytest.approx(metrics(whole, "loss"), rel=ROUNDING)
    assert resumed.stats["train_tokens"] == finished.stats["train_tokens"]
    assert alike(resumed.facts, finished.facts)
    assert alike(weights(tiny_run), weights(whole))


def test_an_error_in_one_process_is_the_error_of_the_stage(tiny_run, full_disk, capfd):
    """Only the first process writes."""
    with (
        full_disk(),
        pytest.raises(ArtifactError, match="training state cannot be saved") as caught,
    ):
        run(config(), tiny_run)
    assert "hint: free disk space" in str(caught.value)
    assert "ChildFailedError" not in capfd.readouterr().err
    assert eventually(lambda: not processes_of(tiny_run))


def test_an_unknown_launch_is_refused_before_anything_is_done(tiny_run):
    with pytest.raises(ConfigError, match="unknown configuration of accelerate") as caught:
        run(config(launch="horovod"), tiny_run)
    assert "ddp, deepspeed, fsdp2" in str(caught.value)
    assert not tiny_run.partial_dir("student").exists()
    with pytest.raises(ConfigError, match="DeepSpeed is not installed"):
        run(config(launch="deepspeed"), tiny_run)
