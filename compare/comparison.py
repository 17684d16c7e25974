"""The comparison as numbers: report.json.

In: the run's files, the measurements and the verdict. Out: `Report`, and the same read from disk.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from compare.answers.answers import Role
from compare.candidates.rows import CandidateRow
from compare.cost_config import CostConfig
from compare.measurement.cost import Cost, Running, price
from compare.measurement.fidelity import fidelity_to_itself
from compare.measurement.machine import Machine
from compare.measurement.run_files import RunFiles
from compare.measurement.served import SIDES, Served
from compare.measurement.speed import Speed
from compare.verdict.examples import Example
from compare.verdict.results import Verdict
from potstill.errors import SchemaVersionError, first_problem
from potstill.facts.comparison import FileRow, ModelRow
from potstill.facts.conversations import ConversationsFacts
from potstill.facts.gguf import GgufFile
from potstill.facts.memorization import Memorization
from potstill.facts.shared import Fidelity
from potstill.facts.student import StudentFacts
from potstill.files import disk_errors
from potstill.former_names import in_artifact
from potstill.schema import Conversation, Value
from potstill.versions import VersionRow

OWN_TOKENS_NOTE = (
    "The student has a tokenizer of its own: KL and top-1 agreement are not defined for it, "
    "and its tokens per second count other tokens."
)
TEXT_NOTE = (
    "The teacher gave text alone: KL and top-1 agreement are not defined, it has no file here, and "
    "speed is the ratio to the student's largest file."
)
THINKING_NOTE = (
    "The student learned to answer without thinking: its figures are under a prompt without any, "
    "against the teacher's distributions after thinking. The teacher's files are not measured."
)
DISTILLED_NOTE = (
    "The student learned the teacher's instructions instead of reading them: its figures are under "
    "its own prompt, against the teacher's distributions under the teacher's. The teacher's files "
    "are not measured, as they do not know these instructions without reading them."
)
SERVED_NOTE = (
    "The KL of the served student is that of its file plus the difference of the server's and the "
    "file's mean log-probabilities of the teacher's tokens, which in expectation is the difference "
    "of both KLs."
)
TRAINED = "trained"


class Report(Value):
    """The content of report.json."""

    teacher: str
    """The teacher as the configuration names it."""
    reference: str
    """The teacher file that ratios refer to: the largest, which has the lowest KL."""
    recommended: str
    """The student file that the gguf stage recommends."""
    verdict: Verdict
    cost: Cost
    method: str | None = None
    """How the student was trained: "full" or "lora". None, like all of a run below, where two
    endpoints were compared without one."""
    num_layers: int | None = None
    removed_layers: tuple[int, ...] = ()
    own_tokenizer: bool = False
    """Whether the student has other tokens than the teacher."""
    checkpoints: tuple[ModelRow, ...] = ()
    """The teacher that was sampled, the student before training, a student of the teacher's tokens
    alone if there is one, the student after each phase of training. None without a run."""
    files: tuple[FileRow, ...] = ()
    """Largest first."""
    quantized: tuple[GgufFile, ...] = ()
    """The same files with the gguf stage's measurements, the teacher's first, the largest first."""
    served: ModelRow | None = None
    """The student behind its endpoint; None where that returns no log-probabilities."""
    candidates: tuple[CandidateRow, ...] = ()
    """All ways to do the task that were compared by its first metric; none without a task."""
    history: tuple[VersionRow, ...] = ()
    """The student after those that it was trained from; none where it was trained from no other
    version. Its own verdict is this report's."""
    memorization: Memorization | None = None
    """What the recommended file gives back of its training answers; None: not measured."""
    examples: tuple[Example, ...]
    """The first pairs; with a task, those come first that only one side has right."""
    notes: tuple[str, ...]
    """Caveats on comparing rows."""
    num_held_out: int = 0
    """Held-out conversations for the fidelity of files."""
    num_prompts: int
    """Prompts that at least one model answered."""
    num_conversations: dict[str, int] = Field(default_factory=dict)
    """Conversations of each split."""
    top_logprobs: int | None = None
    """Most log-probabilities of the teacher stored per token."""
    settings: dict[str, Any]
    """The configuration of the comparison."""
    versions: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Library versions by stage."""
    machine: Machine

    @property
    def untrained(self) -> ModelRow:
        """The student before training."""
        return next(row for row in self.checkpoints if row.role == "student")

    @property
    def trained(self) -> ModelRow:
        """The student after training."""
        return next(row for row in self.checkpoints if row.step == TRAINED)

    @property
    def recommended_file(self) -> FileRow:
        """The row of the recommended student file."""
        return next(file for file in self.files if file.name == self.recommended)

    @property
    def rows(self) -> list[ModelRow]:
        """All rows in reading order: the teacher and its files, the student, its files, served."""
        rows = [*self.checkpoints, *self.files, *filter(None, [self.served])]
        return sorted(rows, key=lambda row: row.role == "student")

    @property
    def teacher_files(self) -> list[FileRow]:
        """The teacher's files, the reference first."""
        return [file for file in self.files if file.role == "teacher"]


def read_report(path: Path) -> Report:
    """Return a stored report.

    Raises:
        ArtifactError: It cannot be read.
        SchemaVersionError: Another version of potstill wrote it.
    """
    with disk_errors("reading the report", path):
        content = in_artifact(json.loads(path.read_text(encoding="utf-8")))
    for judge in content["verdict"]["judges"]:
        judge["checks"] = [_upgraded(check) for check in judge["checks"]]
        judge.pop("bootstrap", None)  # Reports had it until the bounds assumed no distribution.
        (judge.get("sensitivity") or {}).pop("win_rate_upper", None)  # A check has it now.
    try:
        return Report.model_validate(content)
    except ValidationError as error:
        raise SchemaVersionError(
            "the report was written by another version of potstill",
            where=path,
            found=first_problem(error),
            hint="compare again with --force",
        ) from error


def _upgraded(check: dict[str, Any]) -> dict[str, Any]:
    """Return a judge's check; earlier versions wrote its relation at the end of `detail`."""
    if "relation" in check:
        return check
    detail, _, relation = check["detail"].rpartition(", ")
    kept = {name: value for name, value in check.items() if name != "passed"}
    return kept | {"detail": detail, "relation": relation}


def build_report(
    run: RunFiles | None,
    fidelity: Mapping[str, Fidelity],
    served: Served,
    *,
    verdict: Verdict,
    sft: StudentFacts | None,
    candidates: Sequence[CandidateRow] = (),
    memorization: Memorization | None = None,
    costs: CostConfig,
    prompt_tokens_per_output_token: float,
    notes: Sequence[str],
    examples: tuple[Example, ...],
    history: tuple[VersionRow, ...] = (),
    settings: dict[str, Any],
    machine: Machine,
) -> Report:
    """Put measurements and lineage together.

    Args:
        run: What is compared, where it is a run's.
        fidelity: By file name; none for the files of a student with other tokens.
        served: Speed, and log-probabilities of the teacher's tokens from the student's endpoint.
        sft: A student trained on the teacher's tokens alone, if there is one.
        candidates: Who else does the task.
        memorization: What the student gives back of its training answers.
        costs: What the machine and the alternatives cost.
        prompt_tokens_per_output_token: Ratio of the lengths of prompts and answers.
        notes: Further caveats.
        examples: Pairs to be read.
        history: The student's versions.
        settings: The configuration of the comparison.
        machine: Where speed was measured.
    """
    student, teacher = (_running(role, run, served, verdict) for role in SIDES)
    measured: dict[str, Any] = {
        "verdict": verdict,
        "cost": price(costs, student, teacher, prompt_tokens_per_output_token),
        "candidates": tuple(candidates),
        "memorization": memorization,
        "examples": examples,
        "history": history,
        "num_prompts": verdict.num_prompts,
        "settings": settings,
        "machine": machine,
    }
    if run is not None:
        return Report(**_of_run(run, fidelity, served, sft, notes), **measured)
    return Report(
        teacher=verdict.teacher,
        reference=verdict.teacher,
        recommended=verdict.student,
        notes=tuple(notes),
        **measured,
    )


def _of_run(
    run: RunFiles,
    fidelity: Mapping[str, Fidelity],
    served: Served,
    sft: StudentFacts | None,
    notes: Sequence[str],
) -> dict[str, Any]:
    conversations, student = run.conversations, run.student
    files = _files(run, fidelity, served.speed)
    checkpoints = _checkpoints(conversations, student, sft, run.held_out)
    row = _served_row(run, files, served)
    if student.own_tokenizer:
        own_notes = [TEXT_NOTE if conversations.teacher.text_only else OWN_TOKENS_NOTE]
    else:
        own_notes = _notes(checkpoints[1:], files)
    own_notes += [DISTILLED_NOTE] if conversations.prompt_distilled else []
    own_notes += [THINKING_NOTE] if conversations.thinking != "think" else []
    return {
        "teacher": conversations.teacher.model,
        "reference": run.reference.name,
        "recommended": run.gguf.recommended,
        "method": student.method,
        "num_layers": student.num_layers,
        "removed_layers": student.removed_layers,
        "own_tokenizer": student.own_tokenizer,
        "checkpoints": checkpoints,
        "files": files,
        "quantized": tuple(
            sorted(run.gguf.files, key=lambda file: (file.role == "student", -file.bytes))
        ),
        "served": row,
        "notes": (*own_notes, *([SERVED_NOTE] if row else []), *notes),
        "num_held_out": len(run.held_out),
        "num_conversations": conversations.num_conversations,
        "top_logprobs": conversations.top_logprobs,
        "versions": {name: manifest.environment for name, manifest in run.manifests.items()},
    }


def _running(role: Role, run: RunFiles | None, served: Served, verdict: Verdict) -> Running:
    """Return what answers for a side: a file of the run on this machine, or a model elsewhere."""
    if run is None or role in served.elsewhere:
        speed = served.speed.get(role)
        tokens_per_second = speed.tokens_per_second if speed else None
        name = verdict.student if role == "student" else verdict.teacher
        # The price is that of the student's machine, wherever it is.
        return Running(name, tokens_per_second, is_here=role == "student")
    file = run.gguf.recommended_file if role == "student" else run.reference
    return Running(
        name=file.name,
        tokens_per_second=served.speed[file.name].tokens_per_second,
        bytes=file.bytes,
        peak_memory_bytes=file.peak_memory_bytes,
    )


def _served_row(run: RunFiles, files: Sequence[FileRow], served: Served) -> ModelRow | None:
    """Return the served student's row.

    KL(teacher‖server) - KL(teacher‖file) is the expected difference of both log-probabilities of
    the teacher's tokens, which is known on the same tokens.
    """
    file = next(row for row in files if row.name == run.gguf.recommended)
    if served.nats_per_token is None or file.nats_per_token is None or file.kl_nats is None:
        return None
    changed = served.nats_per_token - file.nats_per_token
    return ModelRow(
        name="student, elsewhere" if "student" in served.elsewhere else "student, served",
        role="student",
        step="served",
        num_parameters=file.num_parameters,
        kl_nats=file.kl_nats + changed,
        kl_standard_error=file.kl_standard_error,
        top1_agreement=None,
        nats_per_token=served.nats_per_token,
        num_tokens=file.num_tokens,
    )


def _checkpoints(
    conversations: ConversationsFacts,
    student: StudentFacts,
    sft: StudentFacts | None,
    held_out: list[Conversation],
) -> tuple[ModelRow, ...]:
    before = "pruned" if student.pruned else "untrained"
    teacher = ModelRow(
        name="teacher",
        role="teacher",
        step="sampled",
        num_parameters=conversations.teacher.num_parameters,
        **fidelity_to_itself(held_out).model_dump(),
    )
    aware, measured = student.quantization_aware, student.evaluation
    file_type = aware.type if aware else None
    quantized = "quantized before it was trained to be"
    steps = [
        ("student, untrained", before, student, measured.untrained),
        ("student, SFT only", "teacher's tokens alone", sft, sft and sft.evaluation.trained),
        ("student, offline", "trained on stored conversations", student, measured.offline),
        ("student, on-policy", "trained on its own answers", student, measured.on_policy),
        (f"before, as {file_type}", quantized, student, measured.quantized_plain),
        ("student, trained", TRAINED, student, measured.trained),
        (
            f"after, as {file_type}",
            "quantized as it was trained to be",
            student,
            measured.quantized_aware,
        ),
    ]
    rows = [
        ModelRow(
            name=name,
            role="student",
            step=step,
            num_parameters=model.num_parameters,
            **fidelity.model_dump(),
        )
        for name, step, model, fidelity in steps
        if model is not None and fidelity is not None
    ]
    return tuple(rows) if conversations.teacher.text_only else (teacher, *rows)


def _files(
    run: RunFiles, fidelity: Mapping[str, Fidelity], speed: Mapping[str, Speed]
) -> tuple[FileRow, ...]:
    reference = run.reference
    unit = speed[reference.name].tokens_per_second
    rows = (
        FileRow(
            name=file.name,
            role=file.role,
            step=file.type,
            num_parameters=file.num_parameters,
            bytes=file.bytes,
            size_ratio=file.bytes / reference.bytes,
            speed_ratio=speed[file.name].tokens_per_second / unit,
            **asdict(speed[file.name]),
            **_figures(fidelity.get(file.name)),
        )
        for file in run.gguf.files
    )
    return tuple(sorted(rows, key=lambda row: -row.bytes))


def _figures(fidelity: Fidelity | None) -> dict[str, Any]:
    if fidelity is None:
        return dict.fromkeys(Fidelity.model_fields) | {"num_tokens": 0}
    return fidelity.model_dump()


def _notes(students: Sequence[ModelRow], files: Sequence[FileRow]) -> list[str]:
    trained = students[-1].num_tokens
    on_files = next((file.num_tokens for file in files if file.num_tokens), trained)
    if trained == on_files:
        return []
    return [
        f"The student's checkpoints were measured on {trained:,} held-out tokens and the files on "
        f"{on_files:,}: for a close comparison, give train and compare the same number of "
        "conversations."
    ]
