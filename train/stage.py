"""The train stage: conversations with log-probabilities → a student checkpoint.

In: the finished conversations of a run. Out: a Hugging Face checkpoint with the teacher's tokenizer
files, and its fidelity to the teacher on the test split before and after.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from potstill.chat import tokenizer_sha256
from potstill.errors import TrainingError
from potstill.files import disk_errors, write_text_atomically
from potstill.manifest import Manifest
from potstill.progress import append_metrics
from potstill.rundir import RunDirectory, StageSession
from train.adapters import adapter_config
from train.arguments import training_arguments
from train.cache import largest_token_id
from train.checkpoints import reload_student, save_student
from train.config import TrainConfig
from train.evaluation import measure_fidelity
from train.inputs import Data, load_data
from train.losses import mix_of
from train.student import (
    StudentPlan,
    build_student,
    freeze,
    plan_student,
    refuse_small_vocabulary,
)
from train.trainer import DistillationTrainer, ProgressCallback, newest_whole_state

logger = logging.getLogger(__name__)

START_NAME = "start.json"
STATES_NAME = "states"


def run(config: TrainConfig, run_directory: RunDirectory) -> Manifest:
    """Train the student; resume what an interrupted run left.

    Raises:
        ManifestMismatchError: Teacher or student has another tokenizer than the conversations.
        TrainingError: The student cannot be built from the config, or a split is empty.
        ArtifactError: An input is damaged or the disk is full.
    """
    disable_progress_bar()
    session = run_directory.open_stage("student", config.to_json(), inputs=("conversations",))
    if session.finished:
        return session.finished
    data = load_data(config, run_directory, session.scratch_dir)
    model, start = _start(config, data, session)
    trainer = _train(config, data, model, start["plan"]["removed_layers"], session, run_directory)
    model, trained = _save_and_measure(config, data, trainer.finished_model(), session)
    _report(start["untrained"], trained, run_directory)
    return session.finish(
        facts={
            "teacher": data.facts["teacher"],
            **data.tokenizer_facts,
            "vocab_size": model.get_input_embeddings().weight.shape[0],
            "num_parameters": model.num_parameters(),
            "num_layers": model.config.get_text_config().num_hidden_layers,
            "intermediate_size": model.config.get_text_config().intermediate_size,
            "method": config.method,
            "removed_layers": start["plan"]["removed_layers"],
            "improved": _held_out_loss(trained) < _held_out_loss(start["untrained"]),
            "evaluation": {"split": "test", "untrained": start["untrained"], "trained": trained},
        },
        stats={
            "steps": trainer.state.global_step,
            "train_tokens": int(trainer.state.num_input_tokens_seen),
            "train_conversations": len(data.train),
        },
    )


def _start(config: TrainConfig, data: Data, session: StageSession) -> tuple[Any, dict[str, Any]]:
    """Build the student and measure it untrained; a resumed run keeps what was found before."""
    start_path = session.scratch_dir / START_NAME
    start = json.loads(start_path.read_text(encoding="utf-8")) if start_path.is_file() else None
    if start is None:
        plan = plan_student(config, data.teacher_dir, data.validation)
    else:
        plan = StudentPlan.model_validate(start["plan"])
    model = build_student(plan).to("cuda" if torch.cuda.is_available() else "cpu")
    refuse_small_vocabulary(
        model, max(map(largest_token_id, (data.train, data.validation, data.test)))
    )
    if start is None:
        start = {
            "plan": plan.model_dump(mode="json"),
            "untrained": _measure(config, data, model, "measuring the untrained student"),
        }
        with disk_errors("writing where training starts", start_path):
            session.scratch_dir.mkdir(exist_ok=True)
            write_text_atomically(start_path, json.dumps(start))
    return model, start


def _train(
    config: TrainConfig,
    data: Data,
    model: Any,  # noqa: ANN401  (untyped library)
    removed: list[int],
    session: StageSession,
    run_directory: RunDirectory,
) -> DistillationTrainer:
    states_dir = session.scratch_dir / STATES_NAME
    if config.method == "full":
        freeze(model, config.freeze, removed)
    trainer = DistillationTrainer(
        model=model,
        args=training_arguments(config, states_dir),
        mix=mix_of(config.kd),
        train_dataset=data.train,
        collator=data.collator,
        processing_class=data.tokenizer,
        peft_config=adapter_config(config.lora) if config.method == "lora" else None,
    )
    state = newest_whole_state(states_dir)
    with ProgressCallback(trainer, run_directory.metrics_path):
        try:
            trainer.train(resume_from_checkpoint=str(state) if state else None)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise TrainingError(
                "memory is too short for a training step",
                found=str(error).splitlines()[0],
                hint="lower train.batch_size and raise train.gradient_accumulation_steps as much, "
                "or set train.gradient_checkpointing; then run again with --force",
            ) from error
    return trainer


def _save_and_measure(
    config: TrainConfig,
    data: Data,
    model: Any,  # noqa: ANN401  (untyped library)
    session: StageSession,
) -> tuple[Any, dict[str, Any]]:
    """Save the student, and measure what was saved rather than what was trained."""
    dtype = torch.bfloat16 if config.save_dtype == "bfloat16" else torch.float32
    save_student(model, session.dir, data.tokenizer_dir, dtype)
    row = data.test[0]
    token_ids = row["token_ids"][: config.max_length]
    reloaded = reload_student(session.dir, model.float(), [int(one) for one in token_ids])
    if tokenizer_sha256(session.dir) != data.tokenizer_facts["tokenizer_sha256"]:
        raise TrainingError("the saved tokenizer is not the one trained with", where=session.dir)
    return reloaded, _measure(config, data, reloaded, "measuring the trained student")


def _measure(config: TrainConfig, data: Data, model: Any, label: str) -> dict[str, Any]:  # noqa: ANN401
    fidelity = measure_fidelity(
        model,
        data.test,
        data.collator,
        max_conversations=config.evaluation.max_conversations,
        batch_size=config.batch_size,
        label=label,
    )
    return dataclasses.asdict(fidelity)


def _report(
    untrained: dict[str, Any], trained: dict[str, Any], run_directory: RunDirectory
) -> None:
    """Log both measurements, append them to the metrics, and warn when training did harm."""
    append_metrics(
        run_directory.metrics_path,
        "student",
        **{
            f"{state}_{name}": fidelity[name]
            for state, fidelity in (("untrained", untrained), ("trained", trained))
            for name in ("kl_nats", "nats_per_token")
            if fidelity[name] is not None
        },
    )
    for state, fidelity in (("untrained", untrained), ("trained", trained)):
        nearness = ""
        if fidelity["kl_nats"] is not None:
            nearness = (
                f"KL to the teacher {fidelity['kl_nats']:.4f} ± "
                f"{fidelity['kl_standard_error']:.4f} nats, top-1 agreement "
                f"{fidelity['top1_agreement']:.3f}, "
            )
        logger.info(
            "%s student on the test split: %s%.4f nats per token",
            state,
            nearness,
            fidelity["nats_per_token"],
        )
    if _held_out_loss(trained) >= _held_out_loss(untrained):
        logger.warning(
            "training made the student worse: its held-out loss rose; "
            "lower train.learning_rate or generate more conversations"
        )


def _held_out_loss(fidelity: dict[str, Any]) -> float:
    """Return KL to the teacher, or nats per token where their tokens are not the same."""
    kl_nats: float | None = fidelity["kl_nats"]
    return float(fidelity["nats_per_token"]) if kl_nats is None else kl_nats
