"""The student trained on a share of the run's conversations, for a learning curve.

In: a run's conversations and the settings of its student. Out: a checkpoint. A share is a part of
every larger one, and has as many epochs, or its part of the steps.
"""

from __future__ import annotations

import logging
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from potstill.facts.conversations import ConversationsFacts
from potstill.rundir import RunDirectory
from train.config import TrainConfig
from train.data.inputs import load_data
from train.data.signal_checks import at_sequence_level
from train.job import write_text
from train.students.plan import plan_student
from train.training import job_on_conversations, start, train_student

logger = logging.getLogger(__name__)

DONE_NAME = "share.txt"
"""Written last: the number of conversations."""


def train_share(
    config: TrainConfig, run_directory: RunDirectory, share: float, directory: Path
) -> int:
    """Train a checkpoint into a directory, unless it is complete; return its conversations.

    Raises:
        TrainingError: The student cannot be trained, or the share has no conversation.
        ArtifactError: An input is damaged or the disk is full.
    """
    disable_progress_bar()
    done_path, scratch_dir = directory / DONE_NAME, directory / "scratch"
    if done_path.is_file():
        return int(done_path.read_text(encoding="utf-8"))
    steps = None if config.max_steps is None else max(1, round(share * config.max_steps))
    config = config.model_copy(update={"max_steps": steps, "report_to": []})
    config = at_sequence_level(config, run_directory.facts(ConversationsFacts))
    directory.mkdir(parents=True, exist_ok=True)
    data = load_data(config, run_directory, scratch_dir, train_share=share)
    logger.info("training on %d conversations, a share of %g", len(data.train), share)
    plan, _ = start(
        config,
        data,
        scratch_dir,
        lambda: plan_student(config, data.teacher_dir, data.validation),
    )
    job = job_on_conversations(
        config,
        data,
        plan,
        run_directory,
        metrics_path=scratch_dir / "metrics.jsonl",
        generations_path=scratch_dir / "generations.jsonl",
        tensorboard_dir=scratch_dir,
    )
    train_student(job, data, scratch_dir, directory)
    write_text(str(len(data.train)), done_path)
    return len(data.train)
