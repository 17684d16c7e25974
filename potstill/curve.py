"""The stage `curve`: what a quarter, half and all of the training data reach on the task.

In: a run with a trained student and a task with references. Out: `curve/` with figures and a
drawing. `train` trains on shares of the data, `quantize` makes a file of each
student, and `compare` measures the files.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from potstill.config import Table
from potstill.errors import ConfigError
from potstill.facts.curve import CurveFacts, CurvePoint
from potstill.facts.gguf import GgufFile
from potstill.files import disk_errors, sha256_bytes, write_text_atomically
from potstill.manifest import Manifest
from potstill.pipeline import STAGES, Choice, resolve, working
from potstill.power_law import fit, mean_interval
from potstill.rundir import RunDirectory, StageSession
from potstill.task.stage import read_task
from potstill.task.task import Task

SHARES = (0.25, 0.5)
"""Of the training data; all of it is the run's own student."""
PROJECTED = (2.0, 4.0)
"""Amounts of data to project to, as shares of all training conversations."""
VALUES_NAME, DRAWING_NAME = "values.json", "curve.png"


def make_curve(choice: Choice, run_directory: RunDirectory, *, force: bool = False) -> Manifest:
    """Train on shares of the data, measure, and fit; finished parts are kept.

    Raises:
        ConfigError: The task has no references or metrics.
        ArtifactError: The student or its files are not finished.
        PotstillError: As the stages that train, convert and measure.
    """
    tables = resolve(choice, run_directory)
    with working(run_directory, tables):
        task = _measurable(read_task(run_directory), run_directory)
        if force:
            run_directory.set_aside("curve")
        run_directory.require("gguf")  # `potstill serve` needs it.
        student = run_directory.require("student")
        settings = {
            "train": student.config,
            "metric": task.metrics[0].model_dump(mode="json"),
            "references_sha256": _hash(task),
        }
        session = run_directory.open_stage("curve", settings, inputs=("conversations", "student"))
        if session.finished is not None:
            return session.finished
        counts, checkpoints = _train_shares(student, run_directory, session.scratch_dir)
        conversations_dir = run_directory.stage_dir("conversations")
        files = {
            share: _convert(
                tables["quantize"], conversations_dir, directory, session.scratch_dir, share
            )
            for share, directory in checkpoints.items()
        }
        places = (run_directory, list(files.values()), session.scratch_dir)
        measured: list[list[float]] = STAGES["compare"].call(
            "task_values", "measure", tables["compare"], task, *places
        )
        return _finish(session, task, counts, dict(zip(files, measured, strict=True)))


def _measurable(task: Task | None, run_directory: RunDirectory) -> Task:
    if task is None or not task.metrics or not task.references:
        raise ConfigError(
            "a learning curve needs something to measure",
            where=run_directory.root,
            expected="[task] with references and metrics",
            found="no [task]" if task is None else "a task without them",
        )
    return task


def _train_shares(
    student: Manifest, run_directory: RunDirectory, scratch_dir: Path
) -> tuple[dict[float, int], dict[float, Path]]:
    """Return the number of conversations and the checkpoint by share, trained as the student was.

    Args:
        student: Of the run's own student, which has all of the data.
    """
    train = STAGES["train"]
    table = train.table_class().model_validate(student.config)
    counts: dict[float, int] = {}
    checkpoints: dict[float, Path] = {}
    for share in SHARES:
        checkpoints[share] = scratch_dir / f"share-{share:g}"
        counts[share] = train.call(
            "shares", "train_share", table, run_directory, share, checkpoints[share]
        )
    counts[1.0] = round(student.stats["train_conversations"])
    checkpoints[1.0] = run_directory.stage_dir("student")
    return counts, checkpoints


def _convert(
    table: Table, conversations_dir: Path, checkpoint_dir: Path, scratch_dir: Path, share: float
) -> Path:
    """Return the verified file of a share's student."""
    title = f"share-{share:g}"
    places = (checkpoint_dir, scratch_dir, scratch_dir / f"{title}-verified", title)
    file: GgufFile = STAGES["quantize"].call(
        "task_file", "convert", table, conversations_dir, *places
    )
    return scratch_dir / file.file


def _finish(
    session: StageSession,
    task: Task,
    counts: dict[float, int],
    values: dict[float, list[float]],
) -> Manifest:
    """Fit the measured values, draw them, and finish the stage."""
    shares = sorted(values)
    values_SR = np.array([values[share] for share in shares])
    law = fit([counts[share] for share in shares], values_SR)
    facts = CurveFacts(
        metric=task.make_metrics()[0].name,
        num_references=values_SR.shape[1],
        points=tuple(
            CurvePoint(share=share, num_conversations=counts[share], figure=mean_interval(row_R))
            for share, row_R in zip(shares, values_SR, strict=True)
        ),
        exponent=law.exponent,
        projections=tuple(
            CurvePoint(
                share=share,
                num_conversations=round(share * counts[1.0]),
                figure=law.value(share * counts[1.0]),
            )
            for share in PROJECTED
        ),
    )
    content = {f"{share:g}": values[share] for share in shares}
    with disk_errors("writing the learning curve", session.dir):
        write_text_atomically(session.dir / VALUES_NAME, json.dumps(content) + "\n")
    drawing = session.dir / DRAWING_NAME
    STAGES["train"].call("evaluation.learning_curve", "draw_learning_curve", facts, drawing)
    return session.finish(facts=facts)


def in_words(facts: CurveFacts) -> list[str]:
    """Return a curve as lines of text."""
    lines = []
    for point in (*facts.points, *facts.projections):
        figure = point.figure
        verb = "would reach" if point in facts.projections else "reach"
        lines.append(
            f"{point.num_conversations:,} conversations ({point.share:g} of all) {verb} "
            f"{facts.metric} {figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"
        )
    return lines


def _hash(task: Task) -> str:
    content = [item.model_dump() for item in task.references]
    return sha256_bytes(json.dumps([content, task.student_instructions]).encode())
