"""The comparison as numbers: one row per model, and what was measured on what.

In: the run's files, the measurements and the verdict. Out: `Report`, which is report.json.
Knows nothing of how models run or how a report looks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, Literal

from compare.measurement.config import CostConfig
from compare.measurement.cost import Running, price
from compare.measurement.machine import Machine
from compare.measurement.run_files import RunFiles
from compare.measurement.speed import Speed
from compare.report.cost import Cost
from compare.report.verdict import Verdict
from potstill.fidelity import Fidelity
from potstill.schema import Conversation, Value

OWN_TOKENS_NOTE = (
    "The student has a tokenizer of its own: its next-token distributions are over other tokens "
    "than the teacher's, so KL and top-1 agreement are left out for it, and its tokens per second "
    "are of other tokens too."
)
ReportRole = Literal["teacher", "student"]


class ModelRow(Value):
    """One model's nearness to the teacher."""

    name: str
    role: ReportRole
    step: str
    """What was done to get it: "sampled", "pruned", "trained", or a quantisation type."""
    num_parameters: int
    kl_nats: float | None
    """Forward KL(teacher‖this) per token on held-out conversations, bounded from below by the
    teacher's stored log-probabilities and one bucket for the rest. None, like what is measured with
    it, for a student with other tokens than the teacher's."""
    kl_standard_error: float | None
    top1_agreement: float | None
    """Share of positions where the most probable token is the teacher's."""
    nats_per_token: float | None
    """Mean negative log-probability of the teacher's sampled tokens, or of their text in the
    student's own ones."""
    num_tokens: int
    kl_upper_bound_nats: float | None = None
    """This and all below as in `potstill.fidelity.Fidelity`, where each is explained."""
    kl_estimate_nats: float | None = None
    kl_estimate_standard_error: float | None = None
    reverse_kl_nats: float | None = None
    reverse_kl_standard_error: float | None = None
    acceptance_lower_bound: float | None = None
    acceptance_upper_bound: float | None = None
    acceptance_estimate: float | None = None
    acceptance_standard_error: float | None = None
    top1_standard_error: float | None = None
    nats_standard_error: float | None = None
    calibration_error: float | None = None


class FileRow(ModelRow):
    """A GGUF file, which has a size and a speed as well."""

    bytes: int
    tokens_per_second: float
    time_to_first_token_seconds: float
    num_timed_answers: int
    """Answers behind both medians."""
    size_ratio: float
    """Bytes over those of the reference teacher file."""
    speed_ratio: float
    """Tokens per second over those of the reference teacher file."""


class Report(Value):
    """The content of report.json."""

    teacher: str
    """The teacher as the configuration names it."""
    reference: str
    """The teacher file that ratios refer to: the largest, which is nearest to the checkpoint."""
    recommended: str
    """The student file that the gguf stage recommends."""
    verdict: Verdict
    """May the student replace the teacher?"""
    cost: Cost | None = None
    """None where the machine's price is not told."""
    method: str | None = None
    """How the student was trained: "full" or "lora". None, like all of a run below, where two
    endpoints were compared without one."""
    num_layers: int | None = None
    removed_layers: tuple[int, ...] = ()
    own_tokenizer: bool = False
    """Whether the student has other tokens than the teacher."""
    checkpoints: tuple[ModelRow, ...]
    """The teacher that was sampled, the student before training, a student of the teacher's tokens
    alone if there is one, the student after training. None without a run."""
    files: tuple[FileRow, ...]
    """Largest first."""
    notes: tuple[str, ...]
    """What a reader must know before comparing rows."""
    num_held_out: int
    """Held-out conversations behind the fidelity of files."""
    num_prompts: int
    """Prompts answered side by side."""
    num_conversations: dict[str, int]
    """Conversations of each split."""
    top_logprobs: int | None
    """Most log-probabilities of the teacher's stored per token."""
    settings: dict[str, Any]
    """The configuration of the comparison."""
    versions: dict[str, dict[str, str]]
    """Library versions by stage."""
    machine: Machine

    @property
    def untrained(self) -> ModelRow:
        """The student before training."""
        return self.checkpoints[1]

    @property
    def trained(self) -> ModelRow:
        """The student after training."""
        return self.checkpoints[-1]

    @property
    def recommended_file(self) -> FileRow:
        """The row of the recommended student file."""
        return next(file for file in self.files if file.name == self.recommended)

    @property
    def rows(self) -> list[ModelRow]:
        """All rows in reading order: the teacher and its files, the student and its files."""
        rows: list[ModelRow] = [*self.checkpoints, *self.files]
        return sorted(rows, key=lambda row: row.role == "student")

    @property
    def teacher_files(self) -> list[FileRow]:
        """The teacher's files, the reference first."""
        return [file for file in self.files if file.role == "teacher"]


def build_report(
    run: RunFiles | None,
    fidelity: Mapping[str, Fidelity],
    speed: Mapping[str, Speed],
    *,
    verdict: Verdict,
    sft: Mapping[str, Any] | None,
    costs: CostConfig,
    prompt_tokens_per_output_token: float,
    settings: dict[str, Any],
    machine: Machine,
) -> Report:
    """Put measurements and lineage together.

    Args:
        run: What is compared, where it is a run's.
        fidelity: By file name; none for the files of a student with other tokens.
        speed: By file name.
        sft: How near a student of the teacher's tokens alone is, if there is one.
        costs: What the machine and the alternatives cost.
        prompt_tokens_per_output_token: How long prompts are beside answers.
        settings: The configuration of the comparison.
        machine: Where speed was measured.
    """
    if run is None:
        return Report(
            teacher=verdict.teacher,
            reference=verdict.teacher,
            recommended=verdict.student,
            verdict=verdict,
            checkpoints=(),
            files=(),
            notes=(),
            num_held_out=0,
            num_prompts=verdict.num_prompts,
            num_conversations={},
            top_logprobs=None,
            settings=settings,
            versions={},
            machine=machine,
        )
    conversations, student = run.manifests["conversations"].facts, run.manifests["student"].facts
    files = _files(run, fidelity, speed)
    checkpoints = _checkpoints(conversations, student, sft, run.held_out)
    student_row, teacher_row = _running(run.recommended, speed), _running(run.reference, speed)
    return Report(
        teacher=conversations["teacher"]["model"],
        reference=run.reference["name"],
        recommended=run.recommended["name"],
        verdict=verdict,
        cost=price(costs, student_row, teacher_row, prompt_tokens_per_output_token),
        method=student["method"],
        num_layers=student["num_layers"],
        removed_layers=tuple(student["removed_layers"]),
        own_tokenizer=run.has_own_tokenizer,
        checkpoints=checkpoints,
        files=files,
        notes=(OWN_TOKENS_NOTE,) if run.has_own_tokenizer else _notes(checkpoints[1:], files),
        num_held_out=len(run.held_out),
        num_prompts=verdict.num_prompts,
        num_conversations=conversations["num_conversations"],
        top_logprobs=conversations["top_logprobs"],
        settings=settings,
        versions={name: manifest.environment for name, manifest in run.manifests.items()},
        machine=machine,
    )


def _running(file: Mapping[str, Any], speed: Mapping[str, Speed]) -> Running:
    return Running(
        name=file["name"],
        tokens_per_second=speed[file["name"]].tokens_per_second,
        bytes=file["bytes"],
        peak_memory_bytes=file.get("peak_memory_bytes"),
    )


def _checkpoints(
    conversations: dict[str, Any],
    student: dict[str, Any],
    sft: Mapping[str, Any] | None,
    held_out: list[Conversation],
) -> tuple[ModelRow, ...]:
    before = "pruned" if student["pruned"] else "untrained"
    teacher = ModelRow(
        name="teacher",
        role="teacher",
        step="sampled",
        num_parameters=conversations["teacher"]["num_parameters"],
        **asdict(_to_itself(held_out)),
    )
    evaluation = student["evaluation"]
    size = {"num_parameters": student["num_parameters"]}
    students = [("student, untrained", before, size | evaluation["untrained"])]
    if sft is not None:
        students.append(("student, SFT only", "teacher's tokens alone", dict(sft)))
    students.append(("student, trained", "trained", size | evaluation["trained"]))
    rows = [ModelRow(name=name, role="student", step=step, **row) for name, step, row in students]
    return (teacher, *rows)


def _to_itself(held_out: list[Conversation]) -> Fidelity:
    """Return the teacher's nearness to itself: perfect by definition, but it has an entropy."""
    num_tokens = sum(len(one.signal.sampled_logprobs_T) for one in held_out)
    nats = -sum(float(one.signal.sampled_logprobs_T.sum()) for one in held_out) / num_tokens
    return Fidelity(
        kl_nats=0.0,
        kl_standard_error=0.0,
        top1_agreement=1.0,
        nats_per_token=nats,
        num_tokens=num_tokens,
        kl_upper_bound_nats=0.0,
        kl_estimate_nats=0.0,
        reverse_kl_nats=0.0,
        acceptance_lower_bound=1.0,
        acceptance_upper_bound=1.0,
        acceptance_estimate=1.0,
    )


def _files(
    run: RunFiles, fidelity: Mapping[str, Fidelity], speed: Mapping[str, Speed]
) -> tuple[FileRow, ...]:
    reference = run.reference
    unit = speed[reference["name"]].tokens_per_second
    rows = (
        FileRow(
            name=file["name"],
            role=file["role"],
            step=file["type"],
            num_parameters=file["num_parameters"],
            bytes=file["bytes"],
            size_ratio=file["bytes"] / reference["bytes"],
            speed_ratio=speed[file["name"]].tokens_per_second / unit,
            **asdict(speed[file["name"]]),
            **_figures(fidelity.get(file["name"])),
        )
        for file in run.files
    )
    return tuple(sorted(rows, key=lambda row: -row.bytes))


def _figures(fidelity: Fidelity | None) -> dict[str, Any]:
    if fidelity is None:
        return dict.fromkeys(field.name for field in fields(Fidelity)) | {"num_tokens": 0}
    return asdict(fidelity)


def _notes(students: Sequence[ModelRow], files: Sequence[FileRow]) -> tuple[str, ...]:
    trained, on_files = students[-1].num_tokens, files[0].num_tokens
    if trained == on_files:
        return ()
    return (
        f"The student's checkpoints were measured on {trained:,} held-out tokens and the files on "
        f"{on_files:,}: let training and comparison use as many conversations to compare them "
        "closely.",
    )
