"""The prompts of a run out of all its sources: read, written by the teacher, mixed by weight.

In: the tables of the sources. Out: distinct `RawPrompt`s. The teacher is loaded only where a source
is written by it. Knows nothing of run directories, splits or filters.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from generate.sources.config import SourceConfig
from generate.sources.evolve import write_evolved
from generate.sources.magpie import write_prompts
from generate.sources.mix import KnownPrompts, pool, shares
from generate.sources.raw_prompt import RawPrompt, choose
from generate.sources.reading import read_source, source_digest
from generate.sources.shapes import LastRole
from generate.teachers.protocol import SamplingTeacher, derive_seed
from potstill.errors import ConfigError
from potstill.schema import SamplingParams

logger = logging.getLogger(__name__)

WHERE = "generate.prompts.sources"
LOCATION = {"path", "dataset", "subset", "split", "revision"}
"""Where a source's content was found, which its hash stands for."""


def collect_prompts(
    sources: Sequence[SourceConfig],
    num_prompts: int,
    *,
    last_role: LastRole,
    load_teacher: Callable[[], SamplingTeacher],
    sampling: SamplingParams,
    scratch_dir: Path,
) -> list[RawPrompt]:
    """Take distinct prompts from each source in proportion to its weight.

    Their order has no meaning and is the same on every machine. A source that runs short leaves the
    rest of its share to the others; a prompt that several have belongs to the first of them. Of a
    file's prompts `num_prompts` are in memory at most, whatever its size. What the teacher has
    written is not asked for again by a process that goes on.

    Args:
        num_prompts: How many to take; fewer when there are fewer.
        last_role: Whose message ends a conversation, see `read_source`.
        load_teacher: Called once, and only if a source is written.
        sampling: How prompts are written; `max_tokens` also bounds the seeds that are rewritten.
        scratch_dir: Where the attempts are written down: a directory of this run's own.

    Raises:
        ConfigError: A source cannot be read, or there is nothing to rewrite.
        ArtifactError: A row is no prompt, a source is empty, or the disk is full.
        TeacherError: The teacher cannot be loaded, or writes too few prompts.
    """
    _refuse_unanswered(sources, last_role)
    known = KnownPrompts()
    pools = [
        None if source.kind else pool(read_source(source, last_role=last_role), num_prompts, known)
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
            taken += found.prompts[:count]
            seeds += found.prompts
    asked = list(zip(sources, counts, strict=True))
    written = _Writer(load_teacher, sampling, scratch_dir, known)
    for kind in ("magpie", "evolve"):  # What the teacher wrote out of nothing can be rewritten.
        for number, (source, count) in enumerate(one for one in asked if one[0].kind == kind):
            prompts = written.write(source, count, seeds, f"{kind}-{number}")
            taken += prompts
            seeds += prompts
    return choose(taken, len(taken))


def sources_digest(sources: Sequence[SourceConfig]) -> list[dict[str, Any]]:
    """Return what decides the prompts of sources, as JSON values.

    What is read counts by its content, not by where it lies. Where `is_written` is true of a
    source, the teacher and `sampling` decide as well.

    Raises:
        ConfigError: A source cannot be read.
    """
    return [_pinned(source) for source in sources]


class _Writer:
    """Has the teacher write the prompts of one source after another."""

    def __init__(
        self,
        load_teacher: Callable[[], SamplingTeacher],
        sampling: SamplingParams,
        scratch_dir: Path,
        known: KnownPrompts,
    ) -> None:
        self._load_teacher = load_teacher
        self._sampling = sampling
        self._scratch_dir = scratch_dir
        self._known = known
        self._teacher: SamplingTeacher | None = None

    def write(
        self, source: SourceConfig, count: int, seeds: Sequence[RawPrompt], name: str
    ) -> list[RawPrompt]:
        """Return `count` prompts that no other source has.

        Args:
            name: Tells the source from others of its kind: each has its own log and seeds.
        """
        if not count:
            return []
        self._teacher = teacher = self._teacher or self._load_teacher()
        seed = derive_seed(self._sampling.seed, name)
        sampling = self._sampling.model_copy(update={"seed": seed})
        log_path = self._scratch_dir / f"{name}.jsonl"
        if source.kind == "magpie":
            prompts = write_prompts(teacher, source, count, sampling, log_path, self._known)
        else:
            prompts = write_evolved(teacher, source, seeds, count, sampling, log_path, self._known)
        for prompt in prompts:
            self._known.add(prompt)
        return prompts


def _refuse_unanswered(sources: Sequence[SourceConfig], last_role: LastRole) -> None:
    if last_role == "assistant" and any(source.is_written for source in sources):
        raise ConfigError(
            "prompts that the teacher writes have no answers to be scored",
            where=WHERE,
            expected="sources with path or dataset only",
            hint="name a file of conversations, or let the teacher answer",
        )


def _pinned(source: SourceConfig) -> dict[str, Any]:
    settings = source.model_dump(mode="json", exclude_defaults=True)
    if source.is_written:
        return settings
    kept = {key: value for key, value in settings.items() if key not in LOCATION}
    return kept | {"content": source_digest(source)}
