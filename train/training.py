"""A student trained phase by phase, measured before, between and after, and saved.

In: a job, its conversations and a scratch directory. Out: a checkpoint, and figures. What an
interrupted process has done already is reused.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from potstill.chat import tokenizer_sha256
from potstill.errors import TrainingError
from potstill.facts.shared import Fidelity
from potstill.rundir import RunDirectory
from train.config import QuantizationAwareConfig, TrainConfig
from train.data.cache import largest_token_id
from train.data.inputs import Data, TeacherData
from train.evaluation.fidelity import measure_fidelity
from train.job import Job, Outcome, Phase, PhaseFiles, phases_of, write_job, write_text
from train.launcher import run_phase
from train.phases import trained_student
from train.quantization_aware.weights import Quantization
from train.students.checkpoints import reload_student, save_student
from train.students.plan import StudentPlan, build_student, device, refuse_small_vocabulary

START_NAME = "start.json"
PLAIN, AWARE = "quantized_plain", "quantized_aware"
"""Names of the measurements of the quantized student, before and after quantization-aware
training."""


@dataclass(frozen=True)
class Trained:
    """A trained student.

    Attributes:
        student: The model, loaded from the saved files.
        measured: Its fidelity by name, in the order of training.
        outcomes: What each phase did.
    """

    student: Any
    measured: dict[str, Fidelity]
    outcomes: dict[Phase, Outcome]


def job_on_conversations(
    config: TrainConfig,
    data: TeacherData,
    plan: StudentPlan,
    run_directory: RunDirectory,
    *,
    metrics_path: Path,
    generations_path: Path,
    tensorboard_dir: Path,
) -> Job:
    """Return the job of training on a run's conversations.

    Args:
        metrics_path: Where metrics go, the run's or a scratch file; likewise the next two.
    """
    return Job(
        config=config,
        plan=plan,
        teacher_dir=data.teacher_dir,
        tokenizer_dir=data.tokenizer_dir,
        conversations_dir=run_directory.stage_dir("conversations").absolute(),
        pad_token_id=data.collator.pad_token_id,
        tokens_are_draws=data.tokens_are_draws,
        metrics_path=metrics_path.absolute(),
        generations_path=generations_path.absolute(),
        tensorboard_dir=tensorboard_dir,
    )


def start(
    config: TrainConfig, data: Data, scratch_dir: Path, make_plan: Callable[[], StudentPlan]
) -> tuple[StudentPlan, Fidelity]:
    """Plan the student and measure it untrained; a resumed run reuses both.

    Raises:
        TrainingError: The student cannot be built from the config.
    """
    path = scratch_dir / START_NAME
    if path.is_file():
        known = json.loads(path.read_text(encoding="utf-8"))
        return StudentPlan.model_validate(known["plan"]), Fidelity(**known["untrained"])
    plan = make_plan()
    model = build_student(plan).to(device())
    refuse_small_vocabulary(
        model, max(map(largest_token_id, (data.train, data.validation, data.test)))
    )
    if config.quantization_aware is not None:
        # Refuse before training what would be refused after it.
        Quantization.of(model, config.quantization_aware.type, config.save_dtype)
    untrained = _measure(config, data, model, "measuring the untrained student")
    known = {"plan": plan.model_dump(mode="json"), "untrained": untrained.model_dump()}
    write_text(json.dumps(known), path)
    return plan, untrained


def train_student(
    job: Job, data: Data, scratch_dir: Path, directory: Path, adapter_dir: Path | None = None
) -> Trained:
    """Train in all phases that the job asks for, and save the student into a directory.

    Args:
        adapter_dir: Where to keep its adapter beside the merged weights; None: nowhere.

    Raises:
        TrainingError: The student cannot be trained, or the saved one differs.
        ArtifactError: The disk is full.
    """
    config = job.config
    write_job(job, scratch_dir)
    measured: dict[str, Fidelity] = {}
    outcomes: dict[Phase, Outcome] = {}
    *earlier, last = phases_of(config)
    for phase in earlier:
        outcomes[phase] = run_phase(scratch_dir, phase, config.launch)
        measured[phase] = _measure_once(job, data, scratch_dir, phase)
    if last == "quantization_aware":
        measured[PLAIN] = _measure_once(
            job, data, scratch_dir, earlier[-1], config.quantization_aware
        )
    outcomes[last] = run_phase(scratch_dir, last, config.launch)
    student = _save(job, data, scratch_dir, directory, last, adapter_dir)
    measured["trained"] = _measure(config, data, student, "measuring the trained student")
    if last == "quantization_aware":
        measured[AWARE] = _measure(
            config, data, student, "measuring it quantized", config.quantization_aware
        )
    return Trained(student, measured, outcomes)


def _save(
    job: Job,
    data: Data,
    scratch_dir: Path,
    directory: Path,
    phase: Phase,
    adapter_dir: Path | None,
) -> Any:  # noqa: ANN401  (untyped library)
    """Save the student, and return the model loaded from the saved files.

    Raises:
        TrainingError: It differs from the trained one.
    """
    probe = _probe(job.config, data)
    model = trained_student(job, scratch_dir, phase, probe, adapter_dir).to(device())
    dtype = torch.bfloat16 if job.config.save_dtype == "bfloat16" else torch.float32
    save_student(model, directory, data.tokenizer_dir, dtype, data.other_template)
    reloaded = reload_student(directory, model.float(), probe)
    if tokenizer_sha256(directory) != data.tokenizer_sha256:
        raise TrainingError("the saved tokenizer is not the one trained with", where=directory)
    return reloaded


def _measure_once(
    job: Job,
    data: Data,
    scratch_dir: Path,
    phase: Phase,
    aware: QuantizationAwareConfig | None = None,
) -> Fidelity:
    """Measure the student after a phase that is not the last; a resumed run reuses the result."""
    files = PhaseFiles(scratch_dir, phase)
    path = files.quantized_fidelity_path if aware else files.fidelity_path
    if path.is_file():
        return Fidelity(**json.loads(path.read_text(encoding="utf-8")))
    model = trained_student(job, scratch_dir, phase, _probe(job.config, data)).to(device())
    measured = _measure(job.config, data, model, "measuring the student so far", aware)
    write_text(json.dumps(measured.model_dump()), path)
    return measured


def _measure(
    config: TrainConfig,
    data: Data,
    model: Any,  # noqa: ANN401  (untyped library)
    label: str,
    aware: QuantizationAwareConfig | None = None,
) -> Fidelity:
    """Measure a model in full precision, or quantized as its file will be."""
    as_file: AbstractContextManager[None] = nullcontext()
    if aware is not None:
        as_file = Quantization.of(model, aware.type, config.save_dtype).applied(model)
    with as_file:
        return measure_fidelity(
            model,
            data.test,
            data.collator,
            max_conversations=config.evaluation.max_conversations,
            batch_size=config.batch_size,
            label=label,
            drawn=data.tokens_are_draws,
        )


def _probe(config: TrainConfig, data: Data) -> list[int]:
    """Return the token ids of a conversation on which models are compared."""
    return [int(one) for one in data.test[0]["token_ids"][: config.max_length]]
