"""What integration tests share."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from potstill.progress import append_metrics
from potstill.rundir import RunDirectory
from tests.fixtures.devices import ON_GPU
from train.config import TrainConfig

STATE_SECONDS = 240
"""How long a run may take to write the state that it is to be killed after."""

TRAIN = """
import sys, torch
from pathlib import Path
from potstill.rundir import RunDirectory
from train.config import TrainConfig
from train.stage import run
root, config = sys.argv[1:]
torch.set_num_threads(1)
run(TrainConfig.model_validate_json(config), RunDirectory(Path(root)))
"""


@pytest.fixture
def on_one_device(monkeypatch) -> None:
    """Let processes that accelerate launches share one GPU, or shard on a CPU."""
    fixture_dir = Path(__file__).parent.parent / "fixtures" / "one_device"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(fixture_dir), *filter(None, sys.path)]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    if ON_GPU:
        monkeypatch.setenv("POTSTILL_TEST_DEVICE", "cuda:0")


@pytest.fixture
def full_disk() -> Callable[[], AbstractContextManager[None]]:
    """Return a block in which files have a limit of size: writing stops half-way through one."""

    @contextmanager
    def limited() -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@pytest.fixture
def interrupt_a_run(monkeypatch) -> Callable[..., None]:
    """Return a function that runs the train stage in this process up to a step of a phase.

    The process ends there as by an exception that nothing handles; `kill_a_run` is harsher, and
    takes as long as importing all libraries.
    """

    def run_and_interrupt(run_directory: RunDirectory, config: TrainConfig, phase: str, step: int):
        """Do so; `step` counts those of earlier phases."""
        from train.stage import run

        def append_or_end(path: Path, stage: str, **values: object) -> None:
            append_metrics(path, stage, **values)
            if (values.get("phase"), values.get("step")) == (phase, step) and "loss" in values:
                sys.exit("interrupted")

        with monkeypatch.context() as patch:
            patch.setattr("train.callbacks.append_metrics", append_or_end)
            with pytest.raises(SystemExit, match="interrupted"):
                run(config, run_directory)
        assert not run_directory.is_finished("student")

    return run_and_interrupt


@pytest.fixture
def kill_a_run() -> Callable[..., None]:
    """Return a function that kills the train stage once a phase has written a step's state.

    Nothing is tidied up: SIGKILL.
    """

    def run_and_kill(
        run_directory: RunDirectory,
        config: TrainConfig,
        phase: str,
        step: int,
        *,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """Do so; `before` is called when it is about to be killed."""
        before_ours = os.environ.get("PYTHONPATH", "")
        process = subprocess.Popen(
            [sys.executable, "-c", TRAIN, str(run_directory.root), config.model_dump_json()],
            env=os.environ | {"PYTHONPATH": os.pathsep.join([before_ours, *sys.path])},
            stderr=subprocess.DEVNULL,
        )
        states_dir = run_directory.partial_dir("student") / "scratch" / phase / "states"
        deadline = time.monotonic() + STATE_SECONDS
        while not (states_dir / f"checkpoint-{step}" / "whole").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        before()
        process.kill()
        process.wait()
        assert not run_directory.is_finished("student")

    return run_and_kill
