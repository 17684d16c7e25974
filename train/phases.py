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
from train.arguments import offline_arguments
from train.callbacks import ProgressCallback
from train.data.batches import Collator, PackedCollator
from train.data.cache import open_split
from train.data.packing import pack_split, refuse_mixed_rows
from train.evaluation.held_out import HeldOut, without_adapters
from train.job import Job, Outcome, Phase, PhaseFiles, read_job, write_json
from train.losses import mix_of
from train.states import load_trained, newest_whole_state
from train.students.adapters import adapter_config, merge_adapters
from train.students.plan import build_student, freeze
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
    if phase == "offline":
        steps_before = 0
        trainer = _offline_trainer(job, model, scratch_dir)
    else:
        from train.on_policy.trainers import on_policy_trainer  # imports much

        steps_before = PhaseFiles(scratch_dir, "offline").require_outcome().steps
        load_trained(model, PhaseFiles(scratch_dir, "offline").weights_path())
        trainer = on_policy_trainer(job, model, scratch_dir, files.states_dir)
    if job.config.compile:
        compile_layers(model)
    _equip(trainer, job, scratch_dir, phase, steps_before)
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
    _finish(trainer, files)


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


def _offline_trainer(job: Job, model: Any, scratch_dir: Path) -> DistillationTrainer:  # noqa: ANN401
    config = job.config
    split = open_split(scratch_dir, "train")
    padded = Collator(config.max_length, job.pad_token_id)
    collator: Collator | PackedCollator = padded
    if config.packing:
        flash = "flash" in (model.config._attn_implementation or "")
        split, collator = pack_split(split, padded, config.seed, one_row=flash)
        refuse_mixed_rows(without_adapters(model), collator)
    patience = config.evaluation.patience
    return DistillationTrainer(
        model=model,
        args=offline_arguments(config, PhaseFiles(scratch_dir, "offline").states_dir),
        mix=mix_of(config.kd),
        train_dataset=split,
        eval_dataset=open_split(scratch_dir, "validation"),
        collator=collator,
        processing_class=AutoTokenizer.from_pretrained(job.tokenizer_dir),
        callbacks=[] if patience is None else [EarlyStoppingCallback(patience)],
    )


def _equip(trainer: Any, job: Job, scratch_dir: Path, phase: Phase, steps_before: int) -> None:  # noqa: ANN401
    """Give a trainer what it measures on the way, and TensorBoard its place.

    The best student is kept in the first phase only: the second one does not lower the loss on the
    teacher's conversations, by which students are told better or worse.
    """
    keeps_best = phase == "offline" and job.config.evaluation.patience is not None
    trainer.held_out = HeldOut(
        config=job.config,
        split=open_split(scratch_dir, "validation"),
        collator=Collator(job.config.max_length, job.pad_token_id),
        tokenizer=trainer.processing_class,
        tokens_are_draws=job.tokens_are_draws,
        generations_path=job.generations_path,
        best_path=PhaseFiles(scratch_dir, phase).best_path if keeps_best else None,
        steps_before=steps_before,
    )
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback):
            callback.logging_dir = str(job.tensorboard_dir)


def _finish(trainer: Any, files: PhaseFiles) -> None:  # noqa: ANN401
    """Leave the weights and what they cost; the training states are not needed any more."""
    state = trainer.state
    weights_path, kept_step = trainer.held_out.best_path, state.best_global_step
    if weights_path is None:
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
