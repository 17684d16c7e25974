"""One phase of training: on the stored conversations, on the student's own answers, or quantized.

In: the stage's scratch directory. Out: the trained parameters and an outcome in it. The
same code runs in one process or in several, of which the first writes.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from transformers import AutoTokenizer, EarlyStoppingCallback, set_seed
from transformers.integrations import TensorBoardCallback
from transformers.utils.logging import disable_progress_bar

from potstill.errors import TrainingError, first_line
from train.arguments import offline_arguments
from train.callbacks import ProgressCallback
from train.data.batches import Collator, PackedCollator
from train.data.cache import open_split
from train.data.packing import pack_split
from train.evaluation.held_out import HeldOut, without_adapters
from train.job import Job, Outcome, Phase, PhaseFiles, phases_of, read_job, write_json
from train.losses import mix_of
from train.quantization_aware.training import (
    mark_trained,
    phase_settings,
    quantize_in_training,
)
from train.states import load_trained, newest_whole_state
from train.students.adapters import adapter_config, merge_adapters, save_adapter
from train.students.checks import refuse_mixed_rows
from train.students.plan import build_student, freeze
from train.trainer import DistillationTrainer, choose_attention, compile_layers


def train(scratch_dir: Path, phase: Phase) -> None:
    """Train, from the newest training state if there is one.

    Raises:
        TrainingError: The student cannot be trained: out of memory, or the loss is not a number.
        ArtifactError: The disk is full, or a file of an earlier process is damaged.
    """
    disable_progress_bar()
    job, files = read_job(scratch_dir), PhaseFiles(scratch_dir, phase)
    before = phases_of(job.config)[: phases_of(job.config).index(phase)]
    steps_before = sum(PhaseFiles(scratch_dir, one).require_outcome().steps for one in before)
    model = _student_after(job, scratch_dir, before, phase)
    if phase == "on_policy":
        with absent("vllm"):
            from train.on_policy.trainers import on_policy_trainer

        trainer: Any = on_policy_trainer(job, model, scratch_dir, files.states_dir)
    else:
        trainer = _trainer_of_the_stored(job, model, scratch_dir, phase)
    if job.config.compile:
        compile_layers(model)
    _equip(trainer, job, scratch_dir, phase, steps_before)
    aware = job.config.quantization_aware
    if phase == "quantization_aware" and aware is not None:
        quantize_in_training(trainer, aware.type, job.config.save_dtype)
    state = newest_whole_state(files.states_dir)
    with ProgressCallback(phase, job.metrics_path, steps_before) as progress:
        trainer.add_callback(progress)
        try:
            trainer.train(resume_from_checkpoint=str(state) if state else None)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise TrainingError(
                "out of memory in a training step",
                found=first_line(error),
                hint="lower train.batch_size and raise train.gradient_accumulation_steps as much, "
                "or set train.gradient_checkpointing; then run again with --force",
            ) from error
    _finish(trainer, files)


@contextmanager
def absent(package: str) -> Iterator[None]:
    """Make imports of a package fail in the block, unless it is already imported.

    TRL 1.16 imports vLLM wherever it is installed, for a mode that is not used here. The import
    takes seconds and changes threads and allocators.
    """
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


def trainable_student(job: Job, phase: Phase = "offline") -> Any:  # noqa: ANN401
    """Return the student before training, with gradients on for the parameters a phase trains."""
    model = build_student(job.plan)
    if phase == "quantization_aware":
        mark_trained(model, job.config.freeze)
        return model
    if job.config.method == "lora":
        set_seed(job.config.seed)
        return get_peft_model(model, adapter_config(job.config.lora))
    freeze(model, job.config.freeze, job.plan.removed_layers)
    return model


def trained_student(
    job: Job,
    scratch_dir: Path,
    phase: Phase,
    token_ids: list[int],
    adapter_dir: Path | None = None,
) -> Any:  # noqa: ANN401
    """Return the student after a phase, with adapters merged into its weights.

    Args:
        token_ids: A conversation on which the merged weights are compared with the adapters.
        adapter_dir: Where to save the adapters too; None: nowhere.

    Raises:
        TrainingError: They compute something else.
        ArtifactError: A file of the phase is damaged.
    """
    model = trainable_student(job, phase)
    load_trained(model, PhaseFiles(scratch_dir, phase).weights_path())
    if not isinstance(model, PeftModel):
        return model
    if adapter_dir is not None:
        save_adapter(model, adapter_dir)
    return merge_adapters(model, token_ids)


def _student_after(job: Job, scratch_dir: Path, before: Sequence[Phase], phase: Phase) -> Any:  # noqa: ANN401  (untyped library)
    """Return the student that a phase trains, after the phases before it."""
    if phase == "quantization_aware":
        token_ids = open_split(scratch_dir, "test")[0]["token_ids"][: job.config.max_length]
        model = trained_student(job, scratch_dir, before[-1], [int(one) for one in token_ids])
        mark_trained(model, job.config.freeze)
        return model
    model = trainable_student(job, phase)
    if before:
        load_trained(model, PhaseFiles(scratch_dir, before[-1]).weights_path())
    return model


def _trainer_of_the_stored(
    job: Job,
    model: Any,  # noqa: ANN401
    scratch_dir: Path,
    phase: Phase,
) -> DistillationTrainer:
    config, aware = job.config, job.config.quantization_aware
    if phase == "quantization_aware" and aware is not None:
        config = phase_settings(config, aware)
    split = open_split(scratch_dir, "train")
    padded = Collator(config.max_length, job.pad_token_id)
    collator: Collator | PackedCollator = padded
    if config.packing:
        flash = "flash" in (model.config._attn_implementation or "")
        split, collator = pack_split(split, padded, config.seed, one_row=flash)
        refuse_mixed_rows(without_adapters(model), collator)
    patience = config.evaluation.patience
    args = offline_arguments(config, PhaseFiles(scratch_dir, phase).states_dir)
    choose_attention(without_adapters(model), split["length"][:], bf16=args.bf16)
    return DistillationTrainer(
        model=model,
        args=args,
        mix=mix_of(config.kd),
        train_dataset=split,
        eval_dataset=open_split(scratch_dir, "validation"),
        collator=collator,
        processing_class=AutoTokenizer.from_pretrained(job.tokenizer_dir),
        callbacks=[] if patience is None else [EarlyStoppingCallback(patience)],
    )


def _equip(trainer: Any, job: Job, scratch_dir: Path, phase: Phase, steps_before: int) -> None:  # noqa: ANN401
    """Set a trainer's measurements during training, and TensorBoard's directory.

    The best student is not kept in the on-policy phase: it does not minimize the loss on the
    teacher's conversations, the criterion for the best.
    """
    keeps_best = phase != "on_policy" and job.config.evaluation.patience is not None
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
    # What `report_to` names shows the run under these.
    trainer.args.project, trainer.args.run_name = "potstill", job.metrics_path.parent.name
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback):
            callback.logging_dir = str(job.tensorboard_dir)


def _finish(trainer: Any, files: PhaseFiles) -> None:  # noqa: ANN401
    """Save the weights and the outcome; remove the training states."""
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
