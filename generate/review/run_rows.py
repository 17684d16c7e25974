"""The rows of a run: sampled answers of the training split, compared ones that a metric fails.

In: a run with finished samples. Out: a `Subject`. Answers are shown as they were sampled, whatever
was decided before, with why the filters dropped them.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from generate.curation.dropped import read_dropped
from generate.curation.reviews import Use, row_id
from generate.dataset.reviewed import FILTER
from generate.dataset.student_prompts import own_systems
from generate.prompts.stage import PROMPTS_NAME
from generate.review.rows import (
    Doubt,
    Doubts,
    Row,
    Subject,
    labels_of,
    merged,
    new_row_id,
    notes_on_shown,
    shown_rows,
)
from generate.sampling.parts import part_paths
from potstill.errors import ArtifactError
from potstill.former_names import stored_path
from potstill.manifest import read_manifest
from potstill.rundir import RunDirectory
from potstill.schema import DECLINED, REFERENCES, Message, is_general
from potstill.tables import PAIR_SCHEMA, read_conversation_batches, read_rows
from potstill.task.answers import Answer, Item
from potstill.task.metrics.config import FunctionConfig
from potstill.task.stage import read_task
from potstill.task.task import Task

logger = logging.getLogger(__name__)

COLUMNS = ["prompt_id", "split", "source", "known", "prompt", "completion", "turns", "score"]
NOT_SAMPLED = {REFERENCES, DECLINED}
"""Sources whose answers are not of the training data, or were given."""
Records = Iterable[dict[str, Any]]


def run_subject(run_directory: RunDirectory, task: Task | None = None) -> Subject:
    """Return what there is to review in a run.

    Args:
        task: Whose metrics judge the answers; None: that of the run, without metrics that are
            functions, because the run may be somebody else's.

    Raises:
        ArtifactError: Nothing was sampled yet, or a table is damaged.
    """
    if not run_directory.is_finished("samples"):
        raise ArtifactError(
            "there is nothing to review in the run",
            where=run_directory.root,
            expected="finished samples",
            hint="potstill generate makes them; to review a file, name a JSONL file",
        )
    task = task or _without_functions(read_task(run_directory))
    sampled = _TrainingRows(run_directory, task)
    compared = list(merged(_compared(run_directory, task)))
    rows = shown_rows(chain(compared, sampled))
    return Subject(
        title=str(run_directory.root),
        rows=rows,
        log_path=run_directory.review_path,
        notes=notes_on_shown(sampled.count + len(compared), len(rows)),
        labels=labels_of(task),
    )


def _without_functions(task: Task | None) -> Task | None:
    if task is None:
        return None
    functions = [one.function for one in task.metrics if isinstance(one, FunctionConfig)]
    if functions:
        logger.warning(
            "functions of the run's task are not called: %s; --config FILE with it calls them",
            ", ".join(functions),
        )
    kept = tuple(one for one in task.metrics if not isinstance(one, FunctionConfig))
    return task.model_copy(update={"metrics": kept})


class _TrainingRows:
    """Iterates over the sampled answers of the training split, one part in memory."""

    def __init__(self, run_directory: RunDirectory, task: Task | None) -> None:
        self.count = 0
        self._run, self._task, self._doubts = run_directory, task, Doubts(task)
        prompts_path = run_directory.stage_dir("prompts") / PROMPTS_NAME
        self._systems = own_systems(prompts_path) if task else {}
        turns = read_manifest(run_directory.stage_dir("samples")).config.get("turns", {})
        self._by_majority = turns.get("best_by") == "majority"
        self._uses: tuple[Use, ...] = ("training", "examples", "references")
        if task is None:
            self._uses = ("training",)

    def __iter__(self) -> Iterator[Row]:
        dropped = _dropped(self._run)
        for path in part_paths(self._run.stage_dir("samples")):
            by_prompt: dict[str, list[dict[str, Any]]] = defaultdict(list)
            for batch in read_conversation_batches(path, COLUMNS):
                for row in batch.to_pylist():
                    if _is_reviewed(row):
                        by_prompt[row["prompt_id"]].append(row)
            for same in by_prompt.values():
                for row in merged(self._rows(same, dropped)):
                    self.count += 1
                    yield row

    def _rows(
        self, same: Sequence[Mapping[str, Any]], dropped: Mapping[str, Doubt]
    ) -> Iterator[Row]:
        """Yield the answers to one prompt."""
        completions = [_messages(row["completion"]) for row in same]
        first = [completion[0] for completion in completions]
        disagreeing = self._doubts.disagreeing(first)
        for row, completion, disagrees in zip(same, completions, disagreeing, strict=True):
            own = self._own_messages(row)
            known = Answer.model_validate_json(row["known"]) if row["known"] else None
            row_key = row_id(row["prompt_id"], completion)
            is_general_row = is_general(row["source"])
            item = Item(messages=own, known=known)
            failed = [] if is_general_row else self._doubts.by_metrics(completion[0], item)
            doubts = [
                dropped.get(row_key),
                *(Doubt(name, text) for name, text in failed),
                disagrees or self._minority(row),
                _truncated(row),
            ]
            yield Row(
                id=row_key,
                source=row["source"],
                messages=own,
                answer=completion,
                doubts=tuple(filter(None, doubts)),
                known=known,
                uses=("training",) if is_general_row else self._uses,
            )

    def _minority(self, row: Mapping[str, Any]) -> Doubt | None:
        share = row["score"] if self._by_majority else None
        if share is None or share >= 1:
            return None
        return Doubt("disagreement", f"{share:.0%} of the answers to this prompt say the same")

    def _own_messages(self, row: Mapping[str, Any]) -> tuple[Message, ...]:
        """Return a prompt without the task's instructions and examples."""
        given = _messages(row["prompt"])
        if self._task is None or is_general(row["source"]) or given[0].role != "system":
            return given
        own = self._systems.get(row["prompt_id"])
        return (*((Message(role="system", content=own),) if own else ()), *given[1:])


def _is_reviewed(row: Mapping[str, Any]) -> bool:
    is_answered = row["completion"][-1]["role"] == "assistant"
    return row["split"] == "train" and row["source"] not in NOT_SAMPLED and is_answered


def _dropped(run_directory: RunDirectory) -> dict[str, Doubt]:
    """Return why filters dropped answers, by the rows' ids; of people's decisions nothing."""
    columns = ["prompt_id", "completion", "filter", "reason"]
    return {
        row_id(row["prompt_id"], _messages(row["completion"])): Doubt(row["filter"], row["reason"])
        for row in read_dropped(run_directory.stage_dir("conversations"), columns)
        if row["filter"] != FILTER
    }


def _compared(run_directory: RunDirectory, task: Task | None) -> Iterator[Row]:
    """Yield the answers of a comparison that a metric of the task scores below 1."""
    path = stored_path(run_directory.stage_dir("comparison") / "pairs.parquet")
    if task is None or not path.is_file():
        return
    known = {item.messages: item.known for item in task.references}
    doubts = Doubts(task)
    for row in read_rows(path, PAIR_SCHEMA):
        if row["role"] not in ("student", "teacher") or row["finish_reason"] == "error":
            continue
        messages = _messages(row["messages"])
        answer = Message(
            role="assistant", content=row["answer"], tool_calls=row.get("tool_calls") or None
        )
        item = Item(messages=messages, known=known.get(messages))
        failed = list(doubts.by_metrics(answer, item))
        if failed:
            yield Row(
                id=new_row_id(messages, [answer]),
                source="comparison",
                messages=messages,
                answer=(answer,),
                doubts=tuple(Doubt(row["role"], f"{name} {text}") for name, text in failed),
                known=item.known,
                uses=("references",),
            )


def _truncated(row: Mapping[str, Any]) -> Doubt | None:
    last = row["turns"][-1]
    if last["finish_reason"] != "length":
        return None
    return Doubt("truncated", f"cut off after {last['num_tokens']} tokens")


def _messages(rows: Records) -> tuple[Message, ...]:
    return tuple(Message(**row) for row in rows)
