"""The train stage: conversations with log-probabilities → a student checkpoint.

In: the finished conversations of a run. Out: a Hugging Face checkpoint with the tokenizer files it
was trained with, its fidelity to the teacher on the test split before and after training, and
curves. Training itself may run in other processes; this one owns the run directory.
"""

from __future__ import annotations

import json
import logging
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from potstill.chat import chat_template_sha256, tokenizer_sha256
from potstill.errors import TrainingError
from potstill.facts.shared import Fidelity
from potstill.facts.student import Evaluation, QuantizationAware, StudentFacts
from potstill.manifest import Manifest
from potstill.progress import append_metrics
from potstill.rundir import RunDirectory, StageSession
from train.arguments import refuse_absent_reporters
from train.config import QuantizationAwareConfig, TrainConfig
from train.data.cache import largest_token_id
from train.data.inputs import Data, load_data
from train.evaluation.curves import draw_curves
from train.evaluation.fidelity import measure_fidelity
from train.job import Job, Outcome, Phase, PhaseFiles, phases_of, write_job, write_text
from train.launcher import launch_options, run_phase
from train.phases import trained_student
from train.quantization_aware.weights import Quantization
from train.students.checkpoints import reload_student, save_student
from train.students.plan import StudentPlan, build_student, plan_student, refuse_small_vocabulary

logger = logging.getLogger(__name__)

START_NAME = "start.json"
GENERATIONS_NAME = "generations.jsonl"
CURVES_NAME = "curves.png"
PLAIN, AWARE = "quantized_plain", "quantized_aware"
"""Names of the measurements of the quantized student, before and after quantization-aware
training."""


def run(config: TrainConfig, run_directory: RunDirectory) -> Manifest:
    """Train the student; resume an interrupted run.

    Raises:
        ConfigError: Something that the config names does not exist.
        ManifestMismatchError: Teacher or student has another tokenizer than the conversations.
        TrainingError: The student cannot be built from the config or trained, or a split is empty.
        ArtifactError: An input is damaged or the disk is full.
    """
    disable_progress_bar()
    refuse_absent_reporters(config.report_to)
    if config.launch is not None:
        launch_options(config.launch)
    settings = config.to_json(exclude={"report_to"})
    session = run_directory.open_stage("student", settings, inputs=("conversations",))
    if session.finished:
        return session.finished
    data = load_data(config, run_directory, session.scratch_dir)
    plan, untrained = _start(config, data, session.scratch_dir)
    job = _job(config, data, plan, session, run_directory)
    write_job(job, session.scratch_dir)
    measured = {"untrained": untrained}
    outcomes: dict[Phase, Outcome] = {}
    *earlier, last = phases_of(config)
    for phase in earlier:
        outcomes[phase] = run_phase(session.scratch_dir, phase, config.launch)
        measured[phase] = _measure_once(job, data, session.scratch_dir, phase)
    if last == "quantization_aware":
        measured[PLAIN] = _measure_once(
            job, data, session.scratch_dir, earlier[-1], config.quantization_aware
        )
    outcomes[last] = run_phase(session.scratch_dir, last, config.launch)
    student = _save(job, data, session, last)
    measured["trained"] = _measure(config, data, student, "measuring the trained student")
    if last == "quantization_aware":
        measured[AWARE] = _measure(
            config, data, student, "measuring it quantized", config.quantization_aware
        )
    _report(measured, run_directory)
    draw_curves(run_directory.metrics_path, session.dir / CURVES_NAME)
    return session.finish(
        facts=_facts(config, data, plan, student, measured),
        stats=_stats(outcomes, data),
    )


def _start(config: TrainConfig, data: Data, scratch_dir: Path) -> tuple[StudentPlan, Fidelity]:
    """Plan the student and measure it untrained; a resumed run reuses both."""
    path = scratch_dir / START_NAME
    if path.is_file():
        start = json.loads(path.read_text(encoding="utf-8"))
        return StudentPlan.model_validate(start["plan"]), Fidelity(**start["untrained"])
    plan = plan_student(config, data.teacher_dir, data.validation)
    model = build_student(plan).to(_device())
    refuse_small_vocabulary(
        model, max(map(largest_token_id, (data.train, data.validation, data.test)))
    )
    if config.quantization_aware is not None:  # raise errors of saving before training
        Quantization.of(model, config.quantization_aware.type, config.save_dtype)
    untrained = _measure(config, data, model, "measuring the untrained student")
    start = {"plan": plan.model_dump(mode="json"), "untrained": untrained.model_dump()}
    write_text(json.dumps(start), path)
    return plan, untrained


def _job(
    config: TrainConfig,
    data: Data,
    plan: StudentPlan,
    session: StageSession,
    run_directory: RunDirectory,
) -> Job:
    return Job(
        config=config,
        plan=plan,
        teacher_dir=data.teacher_dir,
        tokenizer_dir=data.tokenizer_dir,
        conversations_dir=run_directory.stage_dir("conversations").absolute(),
        pad_token_id=data.collator.pad_token_id,
        tokens_are_draws=data.facts.tokens_are_draws,
        metrics_path=run_directory.metrics_path.absolute(),
        generations_path=(session.dir / GENERATIONS_NAME).absolute(),
        tensorboard_dir=run_directory.tensorboard_dir.absolute(),
    )


def _save(job: Job, data: Data, session: StageSession, phase: Phase) -> Any:  # noqa: ANN401
    """Save the student, and return the model loaded from the saved files.

    Raises:
        TrainingError: It differs from the trained one.
    """
    probe = _probe(job.config, data)
    model = trained_student(job, session.scratch_dir, phase, probe).to(_device())
    dtype = torch.bfloat16 if job.config.save_dtype == "bfloat16" else torch.float32
    save_student(model, session.dir, data.tokenizer_dir, dtype)
    reloaded = reload_student(session.dir, model.float(), probe)
    if tokenizer_sha256(session.dir) != data.tokenizer_sha256:
        raise TrainingError("the saved tokenizer is not the one trained with", where=session.dir)
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
    model = trained_student(job, scratch_dir, phase, _probe(job.config, data)).to(_device())
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
            drawn=data.facts.tokens_are_draws,
        )


def _probe(config: TrainConfig, data: Data) -> list[int]:
    """Return the token ids of a conversation on which models are compared."""
    return [int(one) for one in data.test[0]["token_ids"][: config.max_length]]


def _facts(
    config: TrainConfig,
    data: Data,
    plan: StudentPlan,
    student: Any,  # noqa: ANN401  (untyped library)
    measured: dict[str, Fidelity],
) -> StudentFacts:
    text_config = student.config.get_text_config()
    aware = config.quantization_aware
    return StudentFacts(
        teacher=data.facts.teacher,
        tokenizer_sha256=data.tokenizer_sha256,
        chat_template_sha256=chat_template_sha256(data.tokenizer.chat_template),
        own_tokenizer=data.has_own_tokenizer,
        vocab_size=student.get_input_embeddings().weight.shape[0],
        num_parameters=student.num_parameters(),
        num_layers=text_config.num_hidden_layers,
        intermediate_size=getattr(text_config, "intermediate_size", None),
        method=config.method,
        removed_layers=plan.removed_layers,
        pruned=bool(plan.removed_layers or plan.kept_neurons),
        improved=measured["trained"].loss_nats < measured["untrained"].loss_nats,
        quantization_aware=None
        if aware is None
        else QuantizationAware(
            type=aware.type,
            kl_nats_plain=measured[PLAIN].kl_nats,
            kl_nats_aware=measured[AWARE].kl_nats,
        ),
        evaluation=Evaluation.model_validate(measured),
    )


def _stats(outcomes: dict[Phase, Outcome], data: Data) -> dict[str, float]:
    return {
        "steps": sum(outcome.steps for outcome in outcomes.values()),
        "train_tokens": sum(outcome.tokens for outcome in outcomes.values()),
        "train_conversations": len(data.train),
        **{f"{phase}_kept_step": outcome.kept_step for phase, outcome in outcomes.items()},
    }


def _report(measured: dict[str, Fidelity], run_directory: RunDirectory) -> None:
    """Log the measurements, append them to the metrics, and warn if the student got worse."""
    for name, fidelity in measured.items():
        figures = {"kl_nats": fidelity.kl_nats, "nats_per_token": fidelity.nats_per_token}
        known = {f"{name}_{key}": value for key, value in figures.items() if value is not None}
        append_metrics(run_directory.metrics_path, "student", **known)
        logger.info("%s student on the test split: %s", name, _in_words(fidelity))
    if measured["trained"].loss_nats >= measured["untrained"].loss_nats:
        logger.warning(
            "training made the student worse: its held-out loss rose; "
            "lower train.learning_rate or generate more conversations"
        )


def _in_words(fidelity: Fidelity) -> str:
    words = f"{fidelity.nats_per_token:.4f} nats per token"
    if fidelity.kl_nats is None:
        return words
    return (
        f"KL to the teacher {fidelity.kl_nats:.4f} ± {fidelity.kl_standard_error:.4f} nats, "
        f"top-1 agreement {fidelity.top1_agreement:.3f}, {words}"
    )


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
