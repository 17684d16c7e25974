"""The messages between the stage and the processes that train for it, in its scratch directory.

In: values. Out: JSON files that are complete or absent, and their names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from potstill.errors import ArtifactError, first_line
from potstill.files import disk_errors, write_text_atomically
from train.config import TrainConfig
from train.students.plan import StudentPlan

JOB_NAME = "job.json"
Phase = Literal["offline", "on_policy", "quantization_aware"]
"""Training on the stored conversations; then, if configured, on the student's own answers; then, if
configured, on the stored conversations again with quantized weights."""
Value = TypeVar("Value", bound=BaseModel)


class Job(BaseModel):
    """The input of a training process, besides the files of the scratch directory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: TrainConfig
    plan: StudentPlan
    teacher_dir: Path
    tokenizer_dir: Path
    """The checkpoint whose tokenizer and chat template the student has."""
    conversations_dir: Path
    pad_token_id: int
    tokens_are_draws: bool
    """`ConversationsFacts.tokens_are_draws`."""
    metrics_path: Path
    generations_path: Path
    tensorboard_dir: Path


class Outcome(BaseModel):
    """The result of a phase of training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int
    """Number of optimizer steps."""
    kept_step: int
    """The step whose weights are the result: the last one, or the best one measured."""
    weights_name: str
    """The file they are in."""
    tokens: int
    """Tokens that were read: prompts and answers, without padding."""


def phases_of(config: TrainConfig) -> tuple[Phase, ...]:
    """Return the configured phases of training, in order."""
    phases: list[Phase] = ["offline"]
    if config.on_policy.max_steps > 0:
        phases.append("on_policy")
    if config.quantization_aware is not None:
        phases.append("quantization_aware")
    return tuple(phases)


class PhaseFiles:
    """The paths of a phase's files."""

    def __init__(self, scratch_dir: Path, phase: Phase) -> None:
        self.dir = scratch_dir / phase
        self.states_dir = self.dir / "states"
        self.last_path = self.dir / "last.safetensors"
        self.best_path = self.dir / "best.safetensors"
        self.outcome_path = self.dir / "outcome.json"
        """Written last: once it exists, the phase is done."""
        self.failure_path = self.dir / "failure.json"
        self.fidelity_path = self.dir / "fidelity.json"
        self.quantized_fidelity_path = self.dir / "quantized_fidelity.json"

    def outcome(self) -> Outcome | None:
        """Return the phase's outcome; None before its end."""
        return read_json(Outcome, self.outcome_path) if self.outcome_path.is_file() else None

    def require_outcome(self) -> Outcome:
        """Return the phase's outcome.

        Raises:
            ArtifactError: It is not done.
        """
        return read_json(Outcome, self.outcome_path)

    def weights_path(self) -> Path:
        """Return the file with the phase's result.

        Raises:
            ArtifactError: The phase is not done.
        """
        return self.dir / self.require_outcome().weights_name


def write_job(job: Job, scratch_dir: Path) -> None:
    """Write the job that other processes read.

    Raises:
        ArtifactError: The disk is full.
    """
    write_json(job, scratch_dir / JOB_NAME)


def read_job(scratch_dir: Path) -> Job:
    """Return the job of a scratch directory.

    Raises:
        ArtifactError: There is none, or it is damaged.
    """
    return read_json(Job, scratch_dir / JOB_NAME)


def write_json(value: BaseModel, path: Path) -> None:
    """Write a value as JSON atomically.

    Raises:
        ArtifactError: The disk is full.
    """
    write_text(value.model_dump_json(indent=2) + "\n", path)


def write_text(text: str, path: Path) -> None:
    """Write a text atomically.

    Raises:
        ArtifactError: The disk is full.
    """
    with disk_errors("writing what training needs", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(path, text)


def read_json(kind: type[Value], path: Path) -> Value:
    """Read a value back.

    Raises:
        ArtifactError: The file is missing or damaged.
    """
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise ArtifactError(
            "the train stage's intermediate files cannot be read",
            where=path,
            found=first_line(error),
            hint="run the train stage again with --force",
        ) from error
