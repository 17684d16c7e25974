"""The flow of `potstill review`: find what is reviewed, serve the page, say what was decided.

In: a run or a file. Out: decisions beside it, or written back with `--apply`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from generate.curation.reviews import Decision, effective, read_decisions
from generate.review.apply import apply_to_file, apply_to_task
from generate.review.file_rows import file_subject
from generate.review.page import Review
from generate.review.rows import Subject
from generate.review.run_rows import run_subject
from potstill.config import Table
from potstill.errors import ConfigError
from potstill.files import HINTS
from potstill.pipeline import Choice, resolve
from potstill.rundir import RunDirectory
from potstill.task.config import TaskConfig
from potstill.task.stage import load_task, read_task_config

SAID = {"accept": "accepted", "edit": "edited", "reject": "rejected", "label": "labeled"}


def find_subject(path: Path, config_path: Path | None) -> Subject:
    """Return what there is to review in a run or a file.

    Args:
        config_path: A configuration whose task judges the answers; None: no task for a file, and
            that of the run without its functions.

    Raises:
        ConfigError: There is neither, or nothing in it, or the task cannot be used.
        ArtifactError: Something cannot be read.
    """
    task = load_task(read_task_config(config_path)) if config_path else None
    if path.is_dir():
        return run_subject(RunDirectory(path), task)
    _require_file(path)
    return file_subject(path, task)


def apply(path: Path, config_path: Path | None) -> list[str]:
    """Write decisions back to a run's task or into a file; return what was done, in words.

    Args:
        config_path: A configuration with the run's task; None: the run's own.

    Raises:
        ConfigError: There is neither run nor file, or the task names no file.
        ArtifactError: A file cannot be read or written.
    """
    if not path.is_dir():
        _require_file(path)
        return apply_to_file(path)
    run_directory = RunDirectory(path)
    tables: dict[str, Table] = resolve(Choice(path=config_path), run_directory)
    decisions = read_decisions([run_directory.review_path])
    said = apply_to_task(decisions.values(), cast(TaskConfig, tables["task"]))
    return said or ["no decision has the use examples or references"]


def sentences(review: Review, path: Path) -> Iterator[str]:
    """Yield what was decided, and what to do with it."""
    decisions = effective(review.log.decisions)
    if not decisions:
        yield "nothing was decided"
        return
    counts = Counter(SAID[decision.action] for decision in decisions.values())
    said = ", ".join(f"{count} {word}" for word, count in counts.most_common())
    yield f"in {review.log.path}: {said}"
    if not path.is_dir():
        yield f"potstill review {path} --apply writes them into the file"
        return
    yield f"potstill run {path} makes the training data again with them"
    if any(_is_written_back(decision) for decision in decisions.values()):
        yield f"potstill review {path} --apply writes examples and references to the task's files"


def _is_written_back(decision: Decision) -> bool:
    return decision.use != "training" and decision.item is not None


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise ConfigError(
            "there is no such run or file",
            where=path,
            expected="a run's directory, or a JSONL file of examples",
            hint=HINTS[FileNotFoundError],
        )
