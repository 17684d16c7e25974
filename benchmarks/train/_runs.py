"""What the benchmarks of this folder share: real conversations, and jobs of training on them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from potstill.config import read_preset
from potstill.facts.base import StageName
from potstill.rundir import RunDirectory
from train.config import TrainConfig
from train.data.inputs import load_data
from train.job import Job, write_job
from train.students.plan import plan_student

DEFAULT_RUN = Path("runs/general")


def conversations(root: Path) -> RunDirectory:
    """Return a run with finished conversations; without any, make those of the preset general."""
    run_directory = RunDirectory(root)
    if not run_directory.is_finished("conversations"):
        command = [sys.executable, "-m", "potstill", "generate", str(root), "--preset", "general"]
        subprocess.run(command, check=True)
    return run_directory


def copy_of(
    run_directory: RunDirectory, root: Path, stages: Sequence[StageName] = ("conversations",)
) -> RunDirectory:
    """Return a run of its own with the same stages."""
    copy = RunDirectory(root)
    for stage in stages:
        if not copy.is_finished(stage):
            shutil.copytree(run_directory.stage_dir(stage), copy.stage_dir(stage))
    return copy


def demo_settings(**changes: object) -> TrainConfig:
    """Return the preset general's settings of training, with changes."""
    return TrainConfig.model_validate(read_preset("general")["train"] | changes)


def prepare_job(config: TrainConfig, run_directory: RunDirectory, scratch_dir: Path) -> Job:
    """Leave in a directory what `train.phases.train` needs."""
    data = load_data(config, run_directory, scratch_dir)
    job = Job(
        config=config,
        plan=plan_student(config, data.teacher_dir, data.validation),
        teacher_dir=data.teacher_dir,
        tokenizer_dir=data.tokenizer_dir,
        conversations_dir=run_directory.stage_dir("conversations").absolute(),
        pad_token_id=data.collator.pad_token_id,
        tokens_are_draws=data.facts.tokens_are_draws,
        metrics_path=scratch_dir / "metrics.jsonl",
        generations_path=scratch_dir / "generations.jsonl",
        tensorboard_dir=scratch_dir / "tensorboard",
    )
    write_job(job, scratch_dir)
    return job
