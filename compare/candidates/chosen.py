"""Which other models and settings answer the task's prompts.

In: the configuration, a run's files. Out: `Candidate`s with the names of their rows. One whose file
does not exist is left out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from compare.answers.requests import Ask, as_student, as_teacher
from compare.answers.serving import FileSide, Side, Sides, name_of
from compare.candidates.rows import Kind
from compare.config import CompareConfig
from compare.measurement.run_files import RunFiles
from compare.measurement.untrained import start_file
from potstill.files import sha256_file
from potstill.task.task import Task

logger = logging.getLogger(__name__)

TEACHER_FILE = "teacher_file"
"""The candidate whose time and energy are the teacher's, where its stored answers are compared."""
BASELINE = "known_answers"
"""The candidate that shows what the teacher brought."""


@dataclass(frozen=True)
class Candidate:
    """A model, and how it is asked."""

    key: str
    """Its role among the answers."""
    name: str
    side: Side
    ask: Ask
    kind: Kind
    num_bytes: int | None = None
    """Of its file; None elsewhere."""
    num_examples: int | None = None
    """Known answers in its prompt, or that it learned from; None where that says nothing."""


def choose(
    config: CompareConfig,
    task: Task,
    run: RunFiles | None,
    sides: Sides,
    scratch_dir: Path,
    *,
    has_stored_answers: bool = False,
) -> list[Candidate]:
    """Return the configured candidates that this comparison has.

    Args:
        has_stored_answers: Whether the teacher's stored answers are compared.
    """
    found: list[Candidate] = []
    teacher = sides["teacher"]
    files = run.gguf.files if run else ()
    size = next((file.bytes for file in files if file.name == name_of(teacher)), None)
    if TEACHER_FILE in config.candidates and has_stored_answers:
        name, ask = "teacher's file, served", as_teacher(task, bound=config.task_schema)
        shots = task.num_shots
        found.append(Candidate(TEACHER_FILE, name, teacher, ask, "teacher", size, shots))
    if "teacher_zero_shot" in config.candidates and task.num_shots:
        name, ask = "teacher without examples", _without_examples(config, task)
        found.append(Candidate("teacher_zero_shot", name, teacher, ask, "teacher", size, 0))
    if run is not None:
        found += _of_run(config, task, run, sides, scratch_dir)
    return found


def _without_examples(config: CompareConfig, task: Task) -> Ask:
    return as_teacher(task, bound=config.task_schema, shots=False)


def _of_run(
    config: CompareConfig, task: Task, run: RunFiles, sides: Sides, scratch_dir: Path
) -> Iterator[Candidate]:
    student = as_student(task, bound=config.task_schema)
    asks_untrained = _asks_untrained(config)
    start = start_file(run, scratch_dir) if asks_untrained else None
    # The next version of a student starts from the last one, which the gate compares.
    if asks_untrained and start is None and config.former_run is None:
        logger.info("the student before training is not compared: there is no GGUF file of it")
    if start is not None:
        side, size = FileSide(start.stem, sha256_file(start), start), start.stat().st_size
        name = "student before training"
        if "untrained" in config.candidates:
            yield Candidate("untrained", name, side, student, "student", size)
        if "untrained_instructed" in config.candidates and _differs(task):
            name += ", with the teacher's instructions"
            ask = _without_examples(config, task)
            yield Candidate("untrained_instructed", name, side, ask, "student", size)
    if BASELINE in config.candidates and run.baseline is not None:
        path, sha256 = run.baseline
        num_known = sum(item.known is not None for item in task.examples)
        side = FileSide(path.stem, sha256, path)
        name = "same student, trained on the known answers alone"
        yield Candidate(BASELINE, name, side, student, "student", path.stat().st_size, num_known)
    if "files" in config.candidates:
        compared = sides["student"]
        for file in run.gguf.files:
            side = FileSide(file.name, run.sha256(file))
            if file.role == "student" and side.identity != compared.identity:
                name = f"student, {file.type}"
                yield Candidate(file.name, name, side, student, "student", file.bytes)


def _asks_untrained(config: CompareConfig) -> bool:
    return not {"untrained", "untrained_instructed"}.isdisjoint(config.candidates)


def _differs(task: Task) -> bool:
    """Return whether the teacher's instructions or tools are not the student's."""
    return (task.instructions, task.tools) != (task.student_instructions, task.student_tools)
