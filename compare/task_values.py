"""The task's first metric on the references for several files, such as those of a learning curve.

In: GGUF files, and a task. Out: the value of each reference's answer, the most probable one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compare.answers.answers import AnswerBook, Role, Sampling, Wanted
from compare.answers.cache import JsonCache
from compare.answers.endpoint import serving_files
from compare.answers.references import read_references
from compare.answers.requests import as_student
from compare.answers.serving import SPARE_CONTEXT_TOKENS, FileSide, Serving
from compare.candidates.rows import Scores
from compare.config import CompareConfig
from compare.measurement.lengths import longest_request
from potstill.files import sha256_file
from potstill.rundir import RunDirectory
from potstill.task.task import Task

ANSWERS_NAME, LOG_NAME = "answers", "endpoint.log"


def measure(
    config: CompareConfig,
    task: Task,
    run_directory: RunDirectory,
    files: Sequence[Path],
    scratch_dir: Path,
) -> list[list[float]]:
    """Return the metric's values by file, in the order of files and references.

    Answers are kept, so that an interrupted measurement goes on. One that cannot be had or scored
    is wrong.

    Args:
        files: With different names.

    Raises:
        BackendError: The server cannot be started, or fails.
    """
    questions = read_references(task, len(task.references), config.seed)
    ask, metric = as_student(task, bound=config.task_schema), task.make_metrics()[0]
    longest = longest_request(map(ask, questions), files[0])

    open_endpoint = serving_files(run_directory.root, config.ready_timeout_seconds)
    log_path = scratch_dir / LOG_NAME
    serving = Serving(
        config, open_endpoint, longest + config.max_tokens + SPARE_CONTEXT_TOKENS, log_path
    )
    sides: dict[Role, FileSide] = {
        path.stem: FileSide(path.stem, sha256_file(path), path) for path in files
    }
    book = AnswerBook(
        JsonCache(scratch_dir / ANSWERS_NAME),
        [Wanted(role, question, 0) for role in sides for question in questions],
        Sampling(0.0, config.max_tokens, config.seed),
        {role: side.identity for role, side in sides.items()},
        {role: role for role in sides},
        dict.fromkeys(sides, ask),
    )
    if book.missing():
        with serving.served(sides) as endpoints:
            book.fill(endpoints, config.max_concurrency)
    answers = book.answers()
    scores = Scores(metric, questions, config.verdict.cluster_by, config.verdict.alpha)
    found = {role: scores.of([one for one in answers if one.role == role]) for role in sides}
    return [[found[path.stem][question.prompt_id] for question in questions] for path in files]
