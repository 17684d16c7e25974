"""The student's start trained on the known answers of a task's examples alone, without a teacher.

In: a task. Out: a checkpoint in the stage `baseline`, to be converted and finished by others. The
number of epochs is chosen on a fifth of the examples; then all of them are trained on for as many.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers.utils.logging import disable_progress_bar

from potstill.chat import chat_template_sha256
from potstill.checkpoints import find_checkpoint
from potstill.errors import ConfigError
from potstill.facts.base import StageName
from potstill.facts.baseline import TrainedBaseline
from potstill.facts.student import Evaluation
from potstill.files import sha256_bytes
from potstill.rundir import RunDirectory, StageSession
from potstill.schema import Split
from potstill.task.known_answers import KnownConversation, known_conversations
from potstill.task.task import Task
from train.config import EvaluationConfig, OnPolicyConfig, TrainConfig
from train.data.inputs import Data, load_data
from train.data.known_answers import load_known_answers
from train.job import Job, read_json, write_job, write_json
from train.launcher import run_phase
from train.students.plan import StudentPlan, plan_student
from train.training import start, train_student

MIN_EXAMPLES = 5
"""One of them is held out to choose the number of epochs."""
HELD_OUT_SHARE = 1 / 5
PLAN_NAME = "plan.json"
GENERATIONS_NAME, METRICS_NAME = "generations.jsonl", "metrics.jsonl"
IRRELEVANT = {
    *("report_to", "launch", "kd", "on_policy", "quantization_aware", "evaluation"),
    *("replay", "packing", "num_epochs", "max_steps", "save_steps", "logging_steps"),
}
"""Settings of the train stage that do not decide the baseline."""


def train(
    config: TrainConfig, task: Task, run_directory: RunDirectory
) -> tuple[StageSession, TrainedBaseline | None]:
    """Train a checkpoint into the stage's directory; resume an interrupted run.

    Returns:
        The stage, to be finished, and facts of the checkpoint; None if it is finished already.

    Raises:
        ConfigError: The task has too few examples with known answers.
        ManifestMismatchError: The baseline was made with another configuration.
        TrainingError: The student cannot be built or trained.
        ArtifactError: An input is damaged or the disk is full.
    """
    disable_progress_bar()
    known = known_conversations(task, task.examples)
    references = known_conversations(task, task.references)
    if len(known) < MIN_EXAMPLES:
        raise ConfigError(
            "a baseline needs examples with known answers",
            where="task.examples",
            expected=f"at least {MIN_EXAMPLES} with a known answer",
            found=len(known),
        )
    settings = config.deciding(exclude=IRRELEVANT)
    settings["known_answers_sha256"] = _hash([*known, *references])
    # A student that is made of the teacher is planned on the teacher's conversations.
    inputs: tuple[StageName, ...] = () if config.student.checkpoint else ("conversations",)
    session = run_directory.open_stage("baseline", settings, inputs=inputs)
    if session.finished:
        return session, None
    plain = _without_teacher(config)
    plan = _plan(plain, run_directory, session.scratch_dir)
    held_out = _held_out(known, config.seed)
    chosen_dir, final_dir = session.scratch_dir / "choice", session.scratch_dir / "all"

    def load(train: Sequence[KnownConversation], scratch_dir: Path) -> Data:
        splits: dict[Split, Sequence[KnownConversation]] = {
            "train": train,
            "validation": held_out,
            "test": references or held_out,
        }
        return load_known_answers(splits, plan.checkpoint_dir, config.max_length, scratch_dir)

    rest = [one for one in known if one not in held_out]
    num_epochs = _choose_epochs(plain, plan, load(rest, chosen_dir), chosen_dir)
    data = load(known, final_dir)
    plain = plain.model_copy(update={"num_epochs": num_epochs})
    _, untrained = start(plain, data, final_dir, lambda: plan)
    job = _job(plain, plan, data, final_dir, session.dir)
    trained = train_student(job, data, final_dir, session.dir)
    measured = {"untrained": untrained} | trained.measured
    return session, TrainedBaseline(
        num_examples=len(data.train),
        num_epochs=num_epochs,
        tokenizer_sha256=data.tokenizer_sha256,
        chat_template_sha256=chat_template_sha256(data.tokenizer.chat_template),
        num_parameters=trained.student.num_parameters(),
        evaluation=Evaluation.model_validate(measured) if references else None,
    )


def _without_teacher(config: TrainConfig) -> TrainConfig:
    """Return the settings of training on known answers."""
    return config.model_copy(
        update={
            "kd": config.kd.model_copy(update={"weight": 0.0}),
            "on_policy": OnPolicyConfig(),
            "quantization_aware": None,
            "launch": None,
            "report_to": [],
            "packing": False,  # a step is as many examples as configured
            "max_steps": None,
            "evaluation": EvaluationConfig(num_generations=0),
        }
    )


def _plan(config: TrainConfig, run_directory: RunDirectory, scratch_dir: Path) -> StudentPlan:
    """Return what the student starts from, the same as in the train stage."""
    path = scratch_dir / PLAN_NAME
    if path.is_file():
        return read_json(StudentPlan, path)
    if config.student.checkpoint:
        return StudentPlan(checkpoint_dir=find_checkpoint(config.student.checkpoint))
    data = load_data(config, run_directory, scratch_dir / "conversations")
    plan = plan_student(config, data.teacher_dir, data.validation)
    write_json(plan, path)
    return plan


def _held_out(known: Sequence[KnownConversation], seed: int) -> list[KnownConversation]:
    """Return a fifth of the conversations, drawn with a seed."""
    order = np.random.default_rng(seed).permutation(len(known))
    return [known[index] for index in order[: max(1, round(HELD_OUT_SHARE * len(known)))]]


def _choose_epochs(config: TrainConfig, plan: StudentPlan, data: Data, scratch_dir: Path) -> float:
    """Return the number of epochs after which the held-out loss is lowest."""
    per_step = config.batch_size * config.gradient_accumulation_steps
    steps = math.ceil(len(data.train) / per_step)
    measured = EvaluationConfig(
        every_steps=steps,
        patience=config.baseline.patience,
        max_conversations=len(data.validation),
        num_generations=0,
    )
    config = config.model_copy(
        update={"num_epochs": config.baseline.num_epochs, "evaluation": measured}
    )
    write_job(_job(config, plan, data, scratch_dir, scratch_dir), scratch_dir)
    return run_phase(scratch_dir, "offline", None).kept_step / steps


def _job(
    config: TrainConfig, plan: StudentPlan, data: Data, scratch_dir: Path, directory: Path
) -> Job:
    return Job(
        config=config,
        plan=plan,
        # Read by the on-policy phase only, which there is not.
        teacher_dir=plan.checkpoint_dir,
        conversations_dir=scratch_dir,
        tokenizer_dir=data.tokenizer_dir,
        pad_token_id=data.collator.pad_token_id,
        tokens_are_draws=False,
        metrics_path=(directory / METRICS_NAME).absolute(),
        generations_path=(directory / GENERATIONS_NAME).absolute(),
        tensorboard_dir=scratch_dir,
    )


def _hash(conversations: Sequence[KnownConversation]) -> str:
    return sha256_bytes(json.dumps([one.model_dump() for one in conversations]).encode())
