"""One phase of training: on the stored conversations, or on the student's own answers.

In: the stage's scratch directory. Out: the trained parameters in it, and what they cost. Knows
nothing of run directories, nor whether it is one of several processes that do the same: the first
of them writes.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from transformers import AutoTokenizer, EarlyStoppingCallback, set_seed
from transformers.integrations import TensorBoardCallback
from transformers.utils.logging import disable_progress_bar

from potstill.errors import TrainingError
from train.adapters import adapter_config, merge_adapters
from train.arguments import offline_arguments
from train.batches import Collator, PackedCollator
from train.cache import open_split
from train.callbacks import ProgressCallback
from train.held_out import HeldOut, without_adapters
from train.job import Job, Outcome, Phase, PhaseFiles, read_job, read_json, write_json
from train.losses import mix_of
from train.packing import pack_split, refuse_mixed_rows
from train.states import load_trained, newest_whole_state
from train.student import build_student, freeze
from train.trainer import DistillationTrainer, compile_layers


def train(scratch_dir: Path, phase: Phase) -> None:
    """Train, from the newest training state if there is one.

    Raises:
        TrainingError: The student cannot be trained: memory is too short, or the loss is no number.
        ArtifactError: The disk is full, or what an earlier process left is damaged.
    """
    disable_progress_bar()
    job, files = read_job(scratch_dir), PhaseFiles(scratch_dir, phase)
    model = trainable_student(job)
    steps_before = 0
    if phase == "on_policy":
        offline = PhaseFiles(scratch_dir, "offline")
        load_trained(model, offline.weights_path())
        steps_before = read_json(Outcome, offline.outcome_path).steps
    if job.config.compile:
        compile_layers(model)
    trainer = _trainer(job, model, scratch_dir, phase)
    state = newest_whole_state(files.states_dir)
    with ProgressCallback(phase, job.metrics_path, steps_before) as progress:
        trainer.add_callback(progress)
        try:
            trainer.train(resume_from_checkpoint=str(state) if state else None)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise TrainingError(
                "memory is too short for a training step",
                found=str(error).splitlines()[0],
                hint="lower train.batch_size and raise train.gradient_accumulation_steps as much, "
                "or set train.gradient_checkpointing; then run again with --force",
            ) from error
    _finish(trainer, job, files)


def trainable_student(job: Job) -> Any:  # noqa: ANN401  (untyped library)
    """Return the student as it is before training, with what is to be trained marked as such."""
    model = build_student(job.plan)
    if job.config.method == "lora":
        set_seed(job.config.seed)
        return get_peft_model(model, adapter_config(job.config.lora))
    freeze(model, job.config.freeze, job.plan.removed_layers)
    return model


def trained_student(job: Job, scratch_dir: Path, phase: Phase, token_ids: list[int]) -> Any:  # noqa: ANN401
    """Return the student as a phase left it, with adapters merged into its weights.

    Args:
        token_ids: A conversation on which the merged weights are compared with the adapters.

    Raises:
        TrainingError: They compute something else.
        ArtifactError: What the phase left is damaged.
    """
    model = trainable_student(job)
    load_trained(model, PhaseFiles(scratch_dir, phase).weights_path())
    return merge_adapters(model, token_ids) if job.config.method == "lora" else model


def _trainer(job: Job, model: Any, scratch_dir: Path, phase: Phase) -> Any:  # noqa: ANN401
    config, files = job.config, PhaseFiles(scratch_dir, phase)
    padded = Collator(config.max_length, job.pad_token_id)
    validation = open_split(scratch_dir, "validation")
    if phase == "offline":
        split = open_split(scratch_dir, "train")
        collator: Collator | PackedCollator = padded
        if config.packing:
            flash = "flash" in (model.config._attn_implementation or "")
            split, collator = pack_split(split, padded, config.seed, one_row=flash)
            refuse_mixed_rows(without_adapters(model), collator)
        trainer: Any = DistillationTrainer(
            model=model,
            args=offline_arguments(config, files.states_dir),
            mix=mix_of(config.kd),
            train_dataset=split,
            eval_dataset=validation,
            collator=collator,
            processing_class=AutoTokenizer.from_pretrained(job.tokenizer_dir),
        )
        if config.evaluation.patience is not None:
            trainer.add_callback(EarlyStoppingCallback(config.evaluation.patience))
    else:
        from train.on_policy.trainers import on_policy_trainer  # imports much

        trainer = on_policy_trainer(job, model, scratch_dir, files.states_dir)
    trainer.held_out = HeldOut(config, validation, padded, job.tokens_are_draws, files.best_path)
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback):
            callback.logging_dir = str(job.tensorboard_dir)
    return trainer


def _finish(trainer: Any, job: Job, files: PhaseFiles) -> None:  # noqa: ANN401
    """Leave the weights and what they cost; the training states are not needed any more."""
    state, weights_path = trainer.state, files.best_path
    kept_step = state.best_global_step
    if job.config.evaluation.patience is None or not isinstance(trainer, DistillationTrainer):
        weights_path, kept_step = files.last_path, state.global_step
        trainer.save_trained(weights_path)
    if trainer.args.should_save:
        outcome = Outcome(
            steps=state.global_step,
            kept_step=kept_step,
            weights_name=weights_path.name,
            tokens=int(state.num_input_tokens_seen),
        )
        write_json(outcome, files.outcome_path)
        shutil.rmtree(files.states_dir, ignore_errors=True)
