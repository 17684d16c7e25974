"""The table of candidates, from their answers.

In: answers of student, teacher and other candidates, and what they took. Out: `CandidateRow`s, the
teacher's first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from compare.answers.answers import Answer, Role, by_role
from compare.answers.consumption import Consumption
from compare.answers.questions import Question
from compare.answers.serving import FileSide, Side, Sides, name_of
from compare.candidates.chosen import TEACHER_FILE, Candidate
from compare.candidates.linear import classify
from compare.candidates.rows import CandidateRow, Kind, Scores
from compare.config import CompareConfig
from compare.cost_config import CostConfig
from compare.measurement.run_files import RunFiles
from potstill.task.metrics.label import Label
from potstill.task.task import Task

THOUSAND = 1000.0
SECONDS_PER_HOUR = 3600.0


def candidate_rows(
    config: CompareConfig,
    task: Task,
    run: RunFiles | None,
    sides: Sides,
    candidates: Sequence[Candidate],
    questions: Sequence[Question],
    answers: Sequence[Answer],
    consumption: Callable[[Role], Consumption | None],
) -> tuple[CandidateRow, ...]:
    """Return the rows: the teacher, the student and the other candidates."""
    metric = task.make_metrics()[0]
    scores = Scores(metric, questions, config.verdict.cluster_by, config.verdict.alpha)
    given_by = by_role(answers)
    student = scores.of(given_by["student"])

    def row(
        key: Role,
        name: str,
        kind: Kind,
        side: Side,
        num_bytes: int | None,
        num_examples: int | None,
    ) -> CandidateRow:
        given = given_by[key]
        values = scores.of(given)
        is_student = key == "student"
        return CandidateRow(
            key=key,
            name=name,
            kind=kind,
            model=name_of(side),
            is_compared=is_student or key == "teacher",
            metric=scores.mean(values),
            student_ahead=None if is_student else scores.ahead(student, values),
            num_prompts=len(values),
            num_examples=num_examples,
            prompt_tokens=_mean(one.prompt_tokens for one in given if not one.is_refused),
            completion_tokens=_mean(one.completion_tokens for one in given if not one.is_refused),
            bytes=num_bytes,
            **_used(config.cost, kind, side, consumption(key) or _of_file(key, consumption)),
        )

    sizes = {file.name: file.bytes for file in run.gguf.files} if run else {}

    def size(side: Side) -> int | None:
        return sizes.get(side.name) if isinstance(side, FileSide) else None

    shots = task.num_shots
    teacher_name = f"teacher with {shots} examples" if shots else "teacher"
    rows = [
        row("teacher", teacher_name, "teacher", sides["teacher"], size(sides["teacher"]), shots),
        row("student", "student", "student", sides["student"], size(sides["student"]), 0),
        *(
            row(one.key, one.name, one.kind, one.side, one.num_bytes, one.num_examples)
            for one in candidates
            if one.key in given_by
        ),
    ]
    if "linear_classifier" in config.candidates and isinstance(metric, Label):
        rows += _linear(task, metric, questions, scores, student)
    return tuple(sorted(rows, key=lambda one: ORDER.index(one.kind)))


def _of_file(key: Role, consumption: Callable[[Role], Consumption | None]) -> Consumption | None:
    """Return what the teacher's file took, for a teacher whose answers were stored."""
    return consumption(TEACHER_FILE) if key == "teacher" else None


ORDER: tuple[Kind, ...] = ("teacher", "student", "none")


def _linear(
    task: Task,
    metric: Label,
    questions: Sequence[Question],
    scores: Scores,
    student: Mapping[str, float],
) -> list[CandidateRow]:
    found = classify(task, metric, [one.messages for one in questions])
    if found is None:
        return []
    values = {
        one.prompt_id: float(one.known is not None and label == metric.read_known(one.known.text))
        for one, label in zip(questions, found.labels, strict=True)
    }
    return [
        CandidateRow(
            key="linear_classifier",
            name="linear classifier (TF-IDF, logistic regression)",
            kind="none",
            model=None,
            metric=scores.mean(values),
            student_ahead=scores.ahead(student, values),
            num_prompts=len(values),
            num_examples=found.num_examples,
            seconds=found.seconds_per_prompt,
        )
    ]


def _used(config: CostConfig, kind: Kind, side: Side, used: Consumption | None) -> dict[str, Any]:
    """Return time, energy and price of answers; nothing of a model on another machine."""
    if used is None or not used.num_answers or not isinstance(side, FileSide):
        return {}
    seconds = used.seconds / used.num_answers
    joules = used.joules
    if joules is None and used.processor_seconds is not None:
        joules = used.processor_seconds * config.watts_per_cpu
    hourly = config.machine_dollars_per_hour
    if kind == "teacher":
        hourly = config.teacher_dollars_per_hour or hourly
    return {
        "seconds": seconds,
        "watt_hours": None
        if joules is None
        else THOUSAND * joules / used.num_answers / SECONDS_PER_HOUR,
        "is_energy_measured": used.joules is not None,
        "dollars": None
        if hourly is None
        else THOUSAND * seconds / SECONDS_PER_HOUR * hourly / config.utilization,
    }


def _mean(values: Iterable[int]) -> float | None:
    found = list(values)
    return fmean(found) if found else None
