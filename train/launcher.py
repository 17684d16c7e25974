"""Runs a phase of training in this process, or in several that accelerate launches.

In: the stage's scratch directory and `train.launch`. Out: a phase that is done, or its error.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import torch

from potstill.errors import ConfigError, TrainingError, error_from_dict
from potstill.processes import child_process
from train.job import Outcome, Phase, PhaseFiles
from train.states import remove_other_states

SHIPPED_DIR = Path(__file__).parent / "launch"
NUM_CPU_PROCESSES = 2
"""Processes that a shipped configuration starts without GPUs, to try it out."""
POLL_SECONDS = 0.2


def launch_options(launch: str) -> list[str]:
    """Return the options of `accelerate launch` for `train.launch`.

    Raises:
        ConfigError: There is no such configuration, or a package that it needs is not installed.
    """
    shipped = sorted(path.stem for path in SHIPPED_DIR.glob("*.yaml"))
    if launch not in shipped:
        path = Path(launch).expanduser()
        if not path.is_file():
            raise ConfigError(
                "unknown configuration of accelerate",
                where="train.launch",
                expected=f"{', '.join(shipped)}, or the path of a file",
                found=launch,
                hint="`accelerate config --config_file FILE` writes one",
            )
        return ["--config_file", str(path)]
    if launch == "deepspeed" and find_spec("deepspeed") is None:
        raise ConfigError(
            "DeepSpeed is not installed",
            where="train.launch",
            found=launch,
            hint="pip install deepspeed, or use fsdp2, which needs no further package",
        )
    num_processes = torch.cuda.device_count() or NUM_CPU_PROCESSES
    path = SHIPPED_DIR / f"{launch}.yaml"
    return ["--config_file", str(path), "--num_processes", str(num_processes)]


def run_phase(scratch_dir: Path, phase: Phase, launch: str | None) -> Outcome:
    """Train, unless the phase is done; resume an interrupted one.

    Raises:
        PotstillError: As the process that trains.
        TrainingError: A launched process ended without an error.
    """
    files = PhaseFiles(scratch_dir, phase)
    if (done := files.outcome()) is not None:
        return done
    remove_other_states(files.states_dir)
    if launch is None:
        from train.phases import train

        train(scratch_dir, phase)
        gc.collect()  # a trainer and its callbacks refer to one another, and to the model
    else:
        # The processes share the first GPU with this one, whose measurements had a whole student.
        gc.collect()
        torch.cuda.empty_cache()
        _launch(scratch_dir, phase, launch_options(launch))
    return files.require_outcome()


def _launch(scratch_dir: Path, phase: Phase, options: list[str]) -> None:
    failure_path = PhaseFiles(scratch_dir, phase).failure_path
    failure_path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "accelerate.commands.launch", *options]
    command += ["-m", "train.worker", str(scratch_dir), phase]
    # A directory named `train` where the user works must not be imported instead of ours.
    environment = os.environ | {"PYTHONSAFEPATH": "1"}
    with child_process(command, stdout=sys.__stderr__, env=environment) as process:
        while process.poll() is None and not failure_path.is_file():
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
    if failure_path.is_file():
        raise error_from_dict(json.loads(failure_path.read_text(encoding="utf-8")))
    if process.returncode != 0:
        raise TrainingError(
            "a training process ended early",
            found=f"exit code {process.returncode} of accelerate launch",
            hint="its output is above; the system kills processes when memory runs out: "
            "lower train.batch_size, then run the same command again to resume",
        )
