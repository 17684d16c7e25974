"""The stage `conversations`: the filtered samples by split, with a data set card and a summary.

In: the stages `prompts` and `samples`. Out: `train-00000.parquet` and so on, named as Hugging Face
`datasets` expects, `dropped.parquet`, a card and a summary page. Rows are copied unchanged, one row
group at a time; where a task gives the student another prompt, with the prompt alone rewritten.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from heapq import nsmallest
from pathlib import Path
from types import TracebackType
from typing import Any, get_args

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from generate.config import GenerateConfig
from generate.curation.checks import file_digests
from generate.curation.conversation_filters import ConversationCurator, Drop
from generate.curation.dropped import DROPPED_NAME, dropped_schema, format_counts, with_reasons
from generate.curation.language import Detector
from generate.curation.task_filters import TASK_FILTERS, first_metric
from generate.dataset.best_teacher import worse_answers
from generate.dataset.card import render_card
from generate.dataset.coverage import Coverage, CoverageCounts
from generate.dataset.page import render_summary
from generate.dataset.reviewed import Reviewed, decisions_of, find_reviewed, review_settings
from generate.dataset.student_prompts import StudentPrompts, student_prompts, with_prompts
from generate.dataset.thinking import ThinkingRows
from generate.lazy_teacher import LazyTeacher
from generate.prompts.stage import PROMPTS_NAME
from generate.sampling.parts import part_paths
from generate.sampling.stage import asked_tokenizer
from generate.sampling.summary import Summary, summarize
from generate.sources.raw_prompt import first_question
from potstill.chat import chat_template_sha256
from potstill.distributions import parquet_options
from potstill.errors import TeacherError
from potstill.facts.conversations import ConversationsFacts
from potstill.facts.prompts import PromptsFacts
from potstill.facts.samples import SamplesFacts
from potstill.files import disk_errors, replacing, sha256_bytes, write_text_atomically
from potstill.manifest import Manifest
from potstill.progress import append_metrics, track
from potstill.rundir import RunDirectory
from potstill.schema import Conversation, Split
from potstill.tables import (
    conversation_paths,
    conversations_from_batch,
    read_conversation_batches,
    schema_of,
)
from potstill.task.stage import read_task
from potstill.task.task import Task
from potstill.thinking import student_template

logger = logging.getLogger(__name__)

ROWS_PER_GROUP = 512
"""Enough for columns to compress well, few enough to fit in memory."""
ROWS_PER_FILE = 65_536
OWN_FACTS = {"version", "num_conversations", "num_by_teacher", "chat_template_sha256"}
"""Facts that are not those of the samples."""
Judged = tuple[pa.Table, list[Conversation], list[Drop | None]]
"""Rows, the same as conversations, and why each is dropped."""
Judge = Callable[[pa.RecordBatch], Judged]
SPANNING = Drop("student_prompt", "a token spans the teacher's prompt and the answer")
NUM_SAMPLES = 12
"""Conversations shown on the summary page."""


def make_dataset(
    config: GenerateConfig, teacher: LazyTeacher, run_directory: RunDirectory
) -> Manifest:
    """Filter the samples; write the data set, its card and its summary.

    Args:
        teacher: Its tokenizer is read where the task asks for it; it is not loaded.

    Raises:
        TeacherError: The training split is empty.
        ArtifactError: A part is damaged, or the disk is full.
    """
    task = read_task(run_directory)
    decisions = decisions_of(config, run_directory)
    settings = _stage_config(config, task) | review_settings(decisions)
    session = run_directory.open_stage(
        "conversations", settings, inputs=("prompts", "samples"), replace=True
    )
    if session.finished:
        return session.finished
    samples_dir = run_directory.stage_dir("samples")
    # Verified when the stage was opened.
    prompts, samples = run_directory.facts(PromptsFacts), run_directory.facts(SamplesFacts)
    with disk_errors("writing conversations", session.dir):
        prompts_path = run_directory.stage_dir("prompts") / PROMPTS_NAME
        students = student_prompts(config, teacher, task, prompts_path)
        thinking = _thinking_rows(config, teacher, samples)
        curator = ConversationCurator(config.curation, task, teacher.decode)
        parts = part_paths(samples_dir)
        reviewed = find_reviewed(config, teacher, task, decisions, samples)
        judge = partial(
            _judge,
            curator=curator,
            students=students,
            thinking=thinking,
            worse=_worse_answers(config, parts, task),
            reviewed=reviewed,
        )
        found = _filter(parts, session.dir, judge, task)
        dropped = dict(found.dropped)
        paths = [
            path for split in get_args(Split) for path in conversation_paths(session.dir, split)
        ]
        summary = summarize(paths)
        if not summary.num_conversations_by_split["train"]:
            raise TeacherError(
                "the filters dropped every conversation of the training split",
                where=samples_dir,
                found=format_counts(dropped | {"failed": samples.num_failed}),
                hint="loosen generate.curation, or raise generate.prompts.num_prompts",
            )
        facts = ConversationsFacts(
            **samples.model_dump(exclude=OWN_FACTS),
            **_template_facts(config, teacher, samples),
            num_conversations=summary.num_conversations_by_split,
            num_by_teacher=dict(summary.teachers),
            num_dropped=sum(dropped.values()),
            dropped_prompts=prompts.dropped,
            dropped_conversations=dropped,
            num_redacted=prompts.num_redacted,
            languages=dict(found.languages.most_common()),
            num_reviewed=dict(reviewed.counts) if reviewed else {},
            **(students.facts() if students else {}),
        )
        write_text_atomically(session.dir / "README.md", render_card(facts, summary))
        coverage = _coverage(config, found.counts)
        page = render_summary(facts, summary, found.samples, coverage)
        write_text_atomically(session.dir / "summary.html", page)
    _report(summary, dropped, coverage, run_directory)
    rows = summary.rows_by_part | {DROPPED_NAME: sum(dropped.values())}
    return session.finish(rows=rows, facts=facts, stats=summary.stats().model_dump())


def _stage_config(config: GenerateConfig, task: Task | None) -> dict[str, Any]:
    curation = config.curation.to_json(exclude={"reviews"}) | file_digests(config.curation)
    settings: dict[str, Any] = {"curation": curation}
    by_task = TASK_FILTERS.keys() & set(config.curation.conversation_filters)
    if task is not None and (by_task or config.choose_teacher == "best"):
        settings["judged_by"] = [task.answer_schema, *(one.to_json() for one in task.metrics[:1])]
    if config.thinking.student != "think":
        settings["thinking"] = config.thinking.student
    if task is not None and task.distills_prompt:
        text = f"{task.student_instructions}\n{task.student_tools}"
        settings["student_prompt"] = sha256_bytes(text.encode())
    return settings


def _thinking_rows(
    config: GenerateConfig, teacher: LazyTeacher, samples: SamplesFacts
) -> ThinkingRows | None:
    if config.thinking.student == "think":
        return None
    asked_tokenizer(config, teacher.checkpoint.tokenizer)  # Raises without a switch it needs.
    return ThinkingRows(config, teacher.checkpoint.tokenizer, samples.vocab_size)


def _template_facts(
    config: GenerateConfig, teacher: LazyTeacher, samples: SamplesFacts
) -> dict[str, Any]:
    """Return the facts on the template that conversations stand under, the student's."""
    thinking, digest = config.thinking, samples.chat_template_sha256
    if thinking.student != "think" or thinking.teacher is not None:
        template = teacher.checkpoint.tokenizer.chat_template
        digest = chat_template_sha256(
            student_template(template, thinking.student, thinking.teacher)
        )
    return {
        "chat_template_sha256": digest,
        "thinking": thinking.student,
        "teacher_thinks": thinking.teacher,
    }


def _coverage(config: GenerateConfig, counts: CoverageCounts | None) -> Coverage | None:
    if counts is None:
        return None
    return counts.coverage(config.prompts.all_sources, config.curation.cluster_threshold)


def _worse_answers(config: GenerateConfig, parts: list[Path], task: Task | None) -> dict[str, Drop]:
    if config.choose_teacher != "best":
        return {}
    metric = first_metric(task, "generate.choose_teacher")
    return worse_answers(parts, metric, config.teacher_names)


@dataclass
class _Found:
    """Results of one pass over the samples."""

    counts: CoverageCounts | None = None
    """What is counted for a task; None without one."""
    dropped: Counter[str] = field(default_factory=Counter)
    """By filter."""
    languages: Counter[str] = field(default_factory=Counter)
    """Detected languages of the first questions of kept conversations."""
    samples: list[Conversation] = field(default_factory=list)
    """Some kept conversations: a pseudo-random but reproducible choice."""


def _filter(parts: list[Path], directory: Path, judge: Judge, task: Task | None) -> _Found:
    """Write kept and dropped rows, under the students' prompts if these differ.

    Returns what was counted on the way. After an interruption everything is written again: it
    takes less time than sampling one part.
    """
    detector = Detector()
    found = _Found(None if task is None else CoverageCounts(task))
    with pq.ParquetFile(parts[0]) as first:
        schema = schema_of(first)
    with ExitStack() as stack, track("filtering conversations", len(parts), "parts") as progress:
        files: dict[str, _RowGroups] = {
            split: stack.enter_context(_RowGroups(directory, f"{split}-{{:05d}}.parquet", schema))
            for split in get_args(Split)
        }
        rest = _RowGroups(directory, DROPPED_NAME, dropped_schema(schema), always=True)
        stack.enter_context(rest)
        for path in parts:
            for batch in read_conversation_batches(path):
                rows, conversations, drops = judge(batch)
                kept = [one for one, drop in zip(conversations, drops, strict=True) if drop is None]
                found.dropped.update(drop.filter for drop in drops if drop is not None)
                found.languages.update(
                    detector.language(first_question(one.given)) or "und" for one in kept
                )
                found.samples = nsmallest(
                    NUM_SAMPLES, [*found.samples, *kept], key=lambda one: one.conversation_id
                )
                if found.counts is not None:
                    found.counts.add(kept)
                _sort_rows(rows, drops, files, rest)
            progress.advance(1)
    splits = get_args(Split)
    found.samples.sort(key=lambda one: splits.index(one.prompt.split))
    return found


def _judge(
    batch: pa.RecordBatch,
    curator: ConversationCurator,
    students: StudentPrompts | None,
    thinking: ThinkingRows | None,
    worse: Mapping[str, Drop],
    reviewed: Reviewed | None,
) -> Judged:
    """Return a batch's rows as the student learns from them, and why each is dropped.

    Args:
        worse: Conversations in whose place another teacher's are kept, by their ids.
        reviewed: People's decisions, which filters do not overrule.
    """
    rows, conversations = pa.Table.from_batches([batch]), conversations_from_batch(batch)
    drops = [worse.get(one.conversation_id) for one in conversations]
    if reviewed is not None:
        rows, conversations, drops = reviewed.rewrite(rows, conversations, drops)
    if students is not None:
        rewritten = list(map(students.rewrite, conversations))
        drops = [
            drop or (SPANNING if one is None else None)
            for one, drop in zip(rewritten, drops, strict=True)
        ]
        conversations = [new or old for new, old in zip(rewritten, conversations, strict=True)]
        rows = with_prompts(rows, conversations)
    if thinking is not None:
        rows, conversations, drops = thinking.rewrite(conversations, drops)
    judged = zip(conversations, drops, strict=True)
    # Samples of an earlier version have fewer columns.
    rows = rows.select(batch.schema.names)
    return rows, conversations, [drop or _drop(one, curator, reviewed) for one, drop in judged]


def _drop(
    conversation: Conversation, curator: ConversationCurator, reviewed: Reviewed | None
) -> Drop | None:
    """Return why a conversation is dropped. All references stay: what is measured is not chosen."""
    if conversation.prompt.is_reference or (reviewed and reviewed.is_kept(conversation)):
        return None
    return curator.judge(conversation)


def _sort_rows(
    rows: pa.Table, drops: list[Drop | None], files: dict[str, _RowGroups], rest: _RowGroups
) -> None:
    is_kept = pa.array([drop is None for drop in drops])
    for split, file in files.items():
        file.add(rows.filter(pc.and_(is_kept, pc.equal(rows["split"], split))))
    objections = [drop for drop in drops if drop is not None]
    filters, reasons = [one.filter for one in objections], [one.reason for one in objections]
    rest.add(with_reasons(rows.filter(pc.invert(is_kept)), filters, reasons))


class _RowGroups:
    """Writes rows to files of full row groups; a file gets its final name when it is complete.

    Args:
        name: Name of the files, with a format field for their number if there may be several.
        always: Write a file even if there are no rows.
    """

    def __init__(
        self, directory: Path, name: str, schema: pa.Schema, *, always: bool = False
    ) -> None:
        self._directory, self._name, self._schema, self._always = directory, name, schema, always
        self._waiting: list[pa.Table] = []
        self._num_waiting = self._num_files = self._num_rows = 0
        self._file = ExitStack()
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> _RowGroups:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._file.__exit__(kind, error, traceback)
            return
        with self._file:
            self._write(self._num_waiting)
            if self._always and not self._num_files:
                self._open()

    def add(self, rows: pa.Table) -> None:
        """Write rows, or buffer them until a row group is full."""
        self._waiting.append(rows)
        self._num_waiting += rows.num_rows
        while self._num_waiting >= ROWS_PER_GROUP:
            self._write(ROWS_PER_GROUP)

    def _write(self, count: int) -> None:
        if not count:
            return
        rows = pa.concat_tables(self._waiting)
        writer = self._writer or self._open()
        writer.write_table(rows.slice(0, count))
        self._num_rows += count
        self._waiting = [rows.slice(count)]
        self._num_waiting -= count
        if self._num_rows >= ROWS_PER_FILE:
            self._file.close()
            self._writer, self._num_rows = None, 0

    def _open(self) -> pq.ParquetWriter:
        path = self._directory / self._name.format(self._num_files)
        temporary = self._file.enter_context(replacing(path))
        self._writer = self._file.enter_context(
            pq.ParquetWriter(temporary, self._schema, **parquet_options(self._schema))
        )
        self._num_files += 1
        return self._writer


def _report(
    summary: Summary,
    dropped: dict[str, int],
    coverage: Coverage | None,
    run_directory: RunDirectory,
) -> None:
    append_metrics(run_directory.metrics_path, "conversations", **summary.stats().model_dump())
    logger.info(
        "%d conversations kept; dropped: %s", summary.num_conversations, format_counts(dropped)
    )
    for sentence in coverage.sentences() if coverage else ():
        logger.info("%s", sentence)
