"""Collect the prompts of a run from all sources: read, written by the teacher, mixed by weight.

In: the tables of the sources. Out: distinct `RawPrompt`s. The teacher is loaded only for sources
that it writes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from generate.sources.config import SourceConfig
from generate.sources.evolve import write_evolved
from generate.sources.magpie import write_prompts
from generate.sources.mix import KnownPrompts, pool, shares
from generate.sources.raw_prompt import DroppedPrompt, RawPrompt
from generate.sources.reading import read_source, source_digest
from generate.sources.shapes import LastRole
from generate.sources.task.writer import write_inputs
from generate.teachers.protocol import SamplingTeacher, derive_seed
from potstill.errors import ConfigError
from potstill.schema import GENERAL_PREFIX, Message, SamplingParams, is_general
from potstill.task.answers import Item
from potstill.task.categories import tool_names
from potstill.task.items import known_answer
from potstill.task.metrics.config import SchemaConfig
from potstill.task.metrics.json_valid import SchemaValid
from potstill.task.task import Task

logger = logging.getLogger(__name__)

WHERE = "generate.prompts.sources"
LOCATION = {"path", "dataset", "subset", "split", "revision"}
"""Keys with the location of a source, which is identified by its hash instead."""


def collect_prompts(
    sources: Sequence[SourceConfig],
    num_prompts: int,
    *,
    last_role: LastRole,
    load_teacher: Callable[[], SamplingTeacher],
    sampling: SamplingParams,
    scratch_dir: Path,
    task: Task | None = None,
) -> Collected:
    """Take distinct prompts from each source in proportion to its weight.

    Their order is arbitrary but the same on every machine. If a source runs short, the others fill
    its share; a prompt of several sources counts for the first. At most `num_prompts` prompts of a
    file are in memory. A resumed run keeps the prompts that the teacher has written.

    Args:
        num_prompts: How many to take, if there are as many.
        last_role: Role of a conversation's last message, see `read_source`.
        load_teacher: Called once, and only if a source is written.
        sampling: Parameters of written prompts; `max_tokens` also limits seeds to be rewritten.
        scratch_dir: A directory of this run for the logs of attempts.
        task: The run's, for sources of kind `task`; with tools a known answer may be a call.

    Raises:
        ConfigError: A source cannot be read, there is nothing to rewrite or to write after, or the
            answer to harmful requests does not fit the task.
        ArtifactError: A row is not a prompt, a source is empty, or the disk is full.
        TeacherError: The teacher cannot be loaded, or writes too few prompts.
    """
    _refuse_unanswered(sources, last_role)
    _refuse_unfit(sources, task)
    known = KnownPrompts()
    has_tools = task is not None and task.tools is not None
    pools = [
        None
        if source.is_written
        else pool(read_source(source, last_role=last_role, has_tools=has_tools), num_prompts, known)
        for source in sources
    ]
    counts = shares(
        [source.weight for source in sources],
        num_prompts,
        [None if found is None else len(found.prompts) for found in pools],
    )
    taken: list[RawPrompt] = []
    seeds: list[RawPrompt] = []
    for source, found, count in zip(sources, pools, counts, strict=True):
        if found is not None:
            logger.info(
                "%s: %d prompts, %d of them its own and distinct, %d taken",
                source.label, found.num_read, found.num_distinct, count,
            )  # fmt: skip
            taken += _marked(source, found.prompts[:count])
            seeds += _marked(source, found.prompts)
    asked = list(zip(sources, counts, strict=True))
    written = _Writer(load_teacher, sampling, scratch_dir, known, task)
    for kind in ("task", "magpie", "evolve"):  # What the others write can be rewritten.
        for number, (source, count) in enumerate(one for one in asked if one[0].kind == kind):
            own = [seed for seed in seeds if is_general(seed.source) == source.general]
            prompts = _marked(source, written.write(source, count, own, f"{kind}-{number}"))
            taken += prompts
            seeds += prompts
    return Collected(sorted(taken, key=lambda one: one.prompt_id), written.dropped)


def sources_digest(sources: Sequence[SourceConfig]) -> list[dict[str, Any]]:
    """Return what determines the prompts of sources, as JSON values.

    Files count by content, not by location. Sources with `is_written` also depend on the teacher
    and on `sampling`.

    Raises:
        ConfigError: A source cannot be read.
    """
    return [_pinned(source) for source in sources]


def _marked(source: SourceConfig, prompts: Sequence[RawPrompt]) -> list[RawPrompt]:
    """Return prompts whose source says whether they are of the task."""
    if not source.general:
        return list(prompts)
    return [replace(prompt, source=GENERAL_PREFIX + prompt.source) for prompt in prompts]


@dataclass(frozen=True)
class Collected:
    """The prompts of all sources."""

    prompts: list[RawPrompt]
    dropped: list[DroppedPrompt]
    """What the teacher has written and cannot be used."""


class _Writer:
    """Writes the prompts of one source after another with the teacher."""

    def __init__(
        self,
        load_teacher: Callable[[], SamplingTeacher],
        sampling: SamplingParams,
        scratch_dir: Path,
        known: KnownPrompts,
        task: Task | None,
    ) -> None:
        self.dropped: list[DroppedPrompt] = []
        self._load_teacher = load_teacher
        self._sampling = sampling
        self._scratch_dir = scratch_dir
        self._known = known
        self._task = task
        self._teacher: SamplingTeacher | None = None

    def write(
        self, source: SourceConfig, count: int, seeds: Sequence[RawPrompt], name: str
    ) -> list[RawPrompt]:
        """Return `count` prompts that no other source has.

        Args:
            name: Identifies the source among those of its kind, with its own log and seeds.
        """
        if not count:
            return []
        self._teacher = teacher = self._teacher or self._load_teacher()
        seed = derive_seed(self._sampling.seed, name)
        sampling = self._sampling.model_copy(update={"seed": seed})
        log_path = self._scratch_dir / f"{name}.jsonl"
        known = self._known
        if source.kind == "magpie":
            written = write_prompts(teacher, source, count, sampling, log_path, known)
        elif source.kind == "task":
            written = write_inputs(teacher, source, self._task, count, sampling, log_path, known)
        else:
            written = write_evolved(teacher, source, seeds, count, sampling, log_path, known)
        self.dropped += written.dropped
        for prompt in written.prompts:
            known.add(prompt)
        return written.prompts


def _refuse_unanswered(sources: Sequence[SourceConfig], last_role: LastRole) -> None:
    if last_role == "assistant" and any(source.is_written for source in sources):
        raise ConfigError(
            "prompts that the teacher writes have no answers to score",
            where=WHERE,
            expected="sources with path or dataset only",
            hint="name a file of conversations, or let the teacher answer",
        )


def _refuse_unfit(sources: Sequence[SourceConfig], task: Task | None) -> None:
    """Refuse an answer to harmful requests that does not fit the task's schema, or its tools."""
    if task is None:
        return
    schema = task.schema_content
    metric = None if schema is None else SchemaValid(SchemaConfig(), schema)
    asked = Item(messages=(Message(role="user", content="any request"),))
    names = set(tool_names(task.tools))
    for source in sources:
        answer = known_answer(source.answer, has_tools=bool(names))
        if answer is None:
            continue
        if unknown := {call.name for call in answer.tool_calls} - names:
            raise ConfigError(
                "the answer to harmful requests calls a tool that the task does not have",
                where=f"{WHERE}: answer",
                expected=f"a text, or a call of {', '.join(sorted(names))}",
                found=", ".join(sorted(unknown)),
            )
        if metric is None or answer.tool_calls:
            continue
        score = metric.score(answer, asked)
        if score.value < 1.0:
            raise ConfigError(
                "the answer to harmful requests does not fit the task's schema",
                where=f"{WHERE}: answer",
                expected="JSON that fits task.answer_schema",
                found=f"{source.answer!r}: {score.problem}",
            )


def _pinned(source: SourceConfig) -> dict[str, Any]:
    settings = source.model_dump(mode="json", exclude_defaults=True)
    if source.is_written:
        return settings
    kept = {key: value for key, value in settings.items() if key not in LOCATION}
    return kept | {"content": source_digest(source)}
