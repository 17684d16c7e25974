"""Makes a run's student: trained on the conversations, measured before and after, and described.

In: the stage's configuration and its session. Out: its files and facts.
"""

from __future__ import annotations

import logging
from typing import Any

from transformers.utils.logging import disable_progress_bar

from potstill.chat import chat_template_sha256
from potstill.checkpoints import checkpoint_fingerprint
from potstill.facts.conversations import ConversationsFacts
from potstill.facts.shared import Fidelity
from potstill.facts.student import Evaluation, KeptAdapter, QuantizationAware, StudentFacts
from potstill.manifest import Manifest
from potstill.progress import append_metrics
from potstill.rundir import RunDirectory, StageSession
from train.config import TrainConfig
from train.data.inputs import TeacherData, load_data
from train.data.signal_checks import at_sequence_level
from train.evaluation.curves import draw_curves
from train.job import Outcome, Phase
from train.students.plan import StudentPlan, plan_student
from train.training import AWARE, PLAIN, job_on_conversations, start, train_student

logger = logging.getLogger(__name__)

GENERATIONS_NAME = "generations.jsonl"
CURVES_NAME = "curves.png"


def make_student(
    config: TrainConfig, run_directory: RunDirectory, session: StageSession
) -> Manifest:
    """Train the student and finish the stage; resume an interrupted run.

    Raises:
        ConfigError: Something that the config names does not exist.
        ManifestMismatchError: Teacher or student has another tokenizer than the conversations.
        TrainingError: The student cannot be built from the config or trained, or a split is empty.
        ArtifactError: An input is damaged or the disk is full.
    """
    disable_progress_bar()
    config = at_sequence_level(config, run_directory.facts(ConversationsFacts))
    data = load_data(config, run_directory, session.scratch_dir)
    if config.on_policy.max_steps and config.on_policy.teacher is not None:
        from train.on_policy.served_teacher import ServedTeacher

        ServedTeacher(config.on_policy.teacher).check()
    plan, untrained = start(
        config,
        data,
        session.scratch_dir,
        lambda: plan_student(config, data.teacher_dir, data.validation),
    )
    job = job_on_conversations(
        config,
        data,
        plan,
        run_directory,
        metrics_path=run_directory.metrics_path,
        generations_path=session.dir / GENERATIONS_NAME,
        tensorboard_dir=run_directory.tensorboard_dir.absolute(),
    )
    adapter_dir = session.dir / KeptAdapter.DIRECTORY if config.keeps_adapter else None
    trained = train_student(job, data, session.scratch_dir, session.dir, adapter_dir)
    measured = {"untrained": untrained} | trained.measured
    _report(measured, run_directory, learns_teacher=not data.facts.known_answers)
    draw_curves(run_directory.metrics_path, session.dir / CURVES_NAME)
    return session.finish(
        facts=_facts(config, data, plan, trained.student, measured),
        stats=_stats(trained.outcomes, data),
    )


def _facts(
    config: TrainConfig,
    data: TeacherData,
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
        intermediate_size=_neurons_of_each_mlp(text_config),
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
        adapter=_kept_adapter(plan) if config.keeps_adapter else None,
        evaluation=Evaluation.model_validate(measured),
    )


def _kept_adapter(plan: StudentPlan) -> KeptAdapter:
    return KeptAdapter(
        base_path=str(plan.checkpoint_dir),
        base_fingerprint=checkpoint_fingerprint(plan.checkpoint_dir),
    )


def _neurons_of_each_mlp(text_config: Any) -> int | None:  # noqa: ANN401  (of any model)
    """Return the width of all MLPs, which Gemma 3n lists by layer; None if there is none."""
    widths = getattr(text_config, "intermediate_size", None)
    distinct = set(widths) if isinstance(widths, list | tuple) else {widths}
    return distinct.pop() if len(distinct) == 1 else None


def _stats(outcomes: dict[Phase, Outcome], data: TeacherData) -> dict[str, float]:
    return {
        "steps": sum(outcome.steps for outcome in outcomes.values()),
        "train_tokens": sum(outcome.tokens for outcome in outcomes.values()),
        "train_conversations": len(data.train),
        **{f"{phase}_kept_step": outcome.kept_step for phase, outcome in outcomes.items()},
    }


def _report(
    measured: dict[str, Fidelity], run_directory: RunDirectory, *, learns_teacher: bool
) -> None:
    """Log the measurements, append them to the metrics, and warn if the student got worse.

    Args:
        learns_teacher: False where known answers were learned: those of the test split are the
            teacher's, and may be in another form.
    """
    for name, fidelity in measured.items():
        figures = {"kl_nats": fidelity.kl_nats, "nats_per_token": fidelity.nats_per_token}
        known = {f"{name}_{key}": value for key, value in figures.items() if value is not None}
        append_metrics(run_directory.metrics_path, "student", **known)
        logger.info("%s student on the test split: %s", name, _in_words(fidelity))
    if learns_teacher and measured["trained"].loss_nats >= measured["untrained"].loss_nats:
        logger.warning(
            "the held-out loss rose in training: the student may be worse than before; if it is, "
            "lower train.learning_rate or train.num_epochs, or generate more conversations"
        )


def _in_words(fidelity: Fidelity) -> str:
    words = f"{fidelity.nats_per_token:.4f} nats per token"
    if fidelity.kl_nats is None:
        return words
    return (
        f"KL to the teacher {fidelity.kl_nats:.4f} ± {fidelity.kl_standard_error:.4f} nats, "
        f"top-1 agreement {fidelity.top1_agreement:.3f}, {words}"
    )
