"""The stage `prompts`: the prompts of a run, each in a split.

In: the configuration, and the sources it names. Out: `prompts.parquet`, and `dropped.parquet` with
the dropped prompts and the reasons. The teacher is loaded only if it writes prompts itself.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from generate.config import GenerateConfig
from generate.curation.checks import check_filters, file_digests
from generate.curation.clusters import cluster, near_held_out, near_references
from generate.curation.dropped import DROPPED_NAME, format_counts, write_dropped_prompts
from generate.curation.prompt_filters import curate_prompts
from generate.lazy_teacher import LazyTeacher
from generate.prompts.splits import assign_beside_references, assign_splits, in_split
from generate.sources.collect import collect_prompts, sources_digest
from generate.sources.raw_prompt import DroppedPrompt, RawPrompt
from generate.sources.shapes import LAST_ROLES
from potstill.canaries import make_canaries
from potstill.chat import control_texts
from potstill.errors import ConfigError
from potstill.facts.prompts import PromptsFacts
from potstill.files import disk_errors, sha256_bytes
from potstill.rundir import RunDirectory
from potstill.schema import CANARIES, REFERENCES, Message, Prompt, SamplingParams
from potstill.tables import PROMPT_SCHEMA, prompt_to_row, write_rows
from potstill.task.answers import Answer, Item
from potstill.task.categories import Categories
from potstill.task.stage import read_task
from potstill.task.task import Task

logger = logging.getLogger(__name__)

PROMPTS_NAME = "prompts.parquet"
MIN_CLUSTERS = 3
"""One for each split."""
CONVERSATION_SETTINGS = {
    "conversation_filters",
    "min_answer_tokens",
    "max_answer_tokens",
    "min_confidence",
    "max_repeated_share",
    "min_score",
    "min_agreement",
    "reviews",
    "student_noise",
}
"""Keys of `[generate.curation]` that do not affect prompts, and may change without new samples."""
WRITTEN_FROM = {"instructions", "tools", "answer_schema", "examples"}
"""What of the task, beside its labels, determines the inputs that the teacher writes for it."""


def make_prompts(config: GenerateConfig, teacher: LazyTeacher, run_directory: RunDirectory) -> None:
    """Read or write the prompts, filter them, and assign them to splits.

    Raises:
        ConfigError: A source cannot be read, or too few prompts are left.
        ArtifactError: A row of a source is not a prompt, or the disk is full.
        TeacherError: The teacher cannot be loaded or sampled.
    """
    sources, task = config.prompts.all_sources, read_task(run_directory)
    check_filters(config.curation, task)
    try:
        digest = sources_digest(sources)
    except ConfigError as error:
        if not run_directory.is_finished("prompts"):
            raise
        logger.warning("keeping the prompts that were read before: %s", error.what)
        return
    if not _has_written(config) and not run_directory.is_finished("prompts"):
        # Sources are read again: repairing a file does not change the configuration.
        run_directory.set_aside("prompts")
    session = run_directory.open_stage("prompts", _stage_config(config, digest, task))
    if session.finished:
        return
    with disk_errors("making prompts", session.dir):
        session.scratch_dir.mkdir(exist_ok=True)
    collected = collect_prompts(
        sources,
        config.prompts.num_prompts,
        last_role=LAST_ROLES[config.turns.kind],
        load_teacher=teacher.load,
        sampling=_written_as(config),
        scratch_dir=session.scratch_dir,
        task=task,
    )
    found = _with_known(collected.prompts, task)
    # Those that are similar to what the student will be measured on are not taught.
    leaks = near_references(
        found, task.references if task else (), config.curation.contamination_threshold
    )
    raw, leaked = _separated(found, leaks, "reference")
    curated = curate_prompts(raw, config.curation)
    controls = control_texts(teacher.checkpoint.tokenizer)
    askable, unaskable = _separated(
        curated.kept, _control_texts(curated.kept, controls), "control_token"
    )
    clusters = cluster(askable, config.curation.cluster_threshold)
    _refuse_too_few(len(raw) + len(leaked), len(askable), len(set(clusters.values())))
    references = _references(config, task)
    prompts = _in_splits(askable, clusters, references, config)
    near = near_held_out(prompts, config.curation.cluster_threshold)
    kept = [prompt for prompt in prompts if prompt.prompt_id not in near]
    kept += _canaries(config)
    likeness = {name: f"like held-out prompt {other}" for name, other in near.items()}
    _, too_near = _separated(askable, likeness, "near_held_out")
    dropped = [*leaked, *collected.dropped, *curated.dropped, *unaskable, *too_near]
    with disk_errors("writing prompts", session.dir):
        write_rows(session.dir / PROMPTS_NAME, PROMPT_SCHEMA, map(prompt_to_row, kept))
        dropped_by_filter = write_dropped_prompts(session.dir, dropped)
    _report(len(raw) + len(leaked), len(references), kept, dropped_by_filter)
    session.finish(
        rows={PROMPTS_NAME: len(kept), DROPPED_NAME: len(dropped)},
        facts=PromptsFacts(
            num_prompts=len(kept),
            num_dropped=len(dropped),
            dropped=dropped_by_filter,
            num_redacted=curated.num_redacted,
            num_clusters=len({prompt.cluster_id for prompt in kept}),
        ),
    )


def _stage_config(
    config: GenerateConfig,
    digest: Any,  # noqa: ANN401  (JSON)
    task: Task | None,
) -> dict[str, Any]:
    """Return what determines the prompts: content of files, and the teacher if it writes any."""
    read = {"num_prompts", "validation_share", "test_share"}
    settings = {
        **config.prompts.model_dump(mode="json", include=read),
        "sources": digest,
        "last_role": LAST_ROLES[config.turns.kind],
        "curation": config.curation.model_dump(mode="json", exclude=CONVERSATION_SETTINGS)
        | file_digests(config.curation),
    }
    if config.prompts.canaries:
        settings["canaries"] = [config.prompts.canaries, config.sampling.seed]
    if task is not None and task.references:
        settings["references"] = _digest(task.references)
    if _has_written(config):
        settings["written_by"] = {
            "teacher": config.teacher.identity,
            "sampling": _written_as(config).model_dump(),
        }
    if task is not None and any(source.kind == "task" for source in config.prompts.all_sources):
        content = task.model_dump_json(include=WRITTEN_FROM)
        label = Categories(task).label
        settings["task"] = sha256_bytes(f"{content} {label and label.model_dump_json()}".encode())
    return settings


def _digest(items: Sequence[Item]) -> str:
    content = [item.model_dump(mode="json") for item in items]
    return sha256_bytes(json.dumps(content, sort_keys=True).encode())


def _has_written(config: GenerateConfig) -> bool:
    return any(source.is_written for source in config.prompts.all_sources)


def _written_as(config: GenerateConfig) -> SamplingParams:
    return SamplingParams(
        temperature=config.prompts.temperature,
        top_p=config.prompts.top_p,
        max_tokens=config.prompts.max_prompt_tokens,
        seed=config.sampling.seed,
    )


def _with_known(prompts: Iterable[RawPrompt], task: Task | None) -> list[RawPrompt]:
    """Give prompts that are the task's examples the known answers of these."""
    known = {item.messages: item.known for item in task.examples} if task else {}

    def of(prompt: RawPrompt) -> RawPrompt:
        answer = known.get(prompt.messages)
        if prompt.known is not None or answer is None:
            return prompt
        return replace(prompt, known=answer.model_dump_json())

    return list(map(of, prompts))


def _references(config: GenerateConfig, task: Task | None) -> list[RawPrompt]:
    """Return the task's references, for the teacher to answer; none where answers are scored."""
    if task is None or config.turns.kind == "score":
        return []
    return [
        RawPrompt(
            messages=item.messages,
            source=REFERENCES,
            known=item.known.model_dump_json() if item.known else None,
        )
        for item in task.references
    ]


def _in_splits(
    prompts: Sequence[RawPrompt],
    clusters: Mapping[str, str],
    references: Sequence[RawPrompt],
    config: GenerateConfig,
) -> list[Prompt]:
    """Assign splits. References are the test split, which gets no other prompt then."""
    shares = config.prompts.validation_share, config.prompts.test_share
    if not references:
        return assign_splits(prompts, clusters, *shares)
    own = cluster(references, config.curation.cluster_threshold)
    return assign_beside_references(prompts, clusters, references, own, shares[0])


def _canaries(config: GenerateConfig) -> list[Prompt]:
    """Return the planted prompts. They pass no filter, and all are trained on."""
    planted = make_canaries(config.prompts.canaries, config.sampling.seed)
    raw = [
        RawPrompt(
            messages=(Message(role="user", content=one.question),),
            source=CANARIES,
            known=Answer(text=one.answer).model_dump_json(),
        )
        for one in planted
    ]
    return [in_split(one, one.prompt_id, "train") for one in raw]


def _separated(
    prompts: Sequence[RawPrompt], reasons: Mapping[str, str], name: str
) -> tuple[list[RawPrompt], list[DroppedPrompt]]:
    """Separate the prompts with a reason to drop them, by prompt id; `name` is the filter's."""
    return (
        [one for one in prompts if one.prompt_id not in reasons],
        [
            DroppedPrompt(one, name, reasons[one.prompt_id])
            for one in prompts
            if one.prompt_id in reasons
        ],
    )


def _control_texts(prompts: Iterable[RawPrompt], controls: Sequence[str]) -> dict[str, str]:
    """Return the texts of control tokens in prompts that have some: they would end their turn."""
    found = {}
    for prompt in prompts:
        texts = [message.content for message in prompt.messages]
        if inside := [one for one in controls if any(one in text for text in texts)]:
            found[prompt.prompt_id] = ", ".join(inside)
    return found


def _refuse_too_few(num_found: int, num_kept: int, num_clusters: int) -> None:
    if num_clusters < MIN_CLUSTERS:
        raise ConfigError(
            "too few prompts for three splits",
            where="generate.prompts",
            expected=f"at least {MIN_CLUSTERS} dissimilar prompts after the filters",
            found=f"{num_found} prompts, {num_kept} after the filters, {num_clusters} dissimilar",
            hint="name more sources, or loosen generate.curation",
        )


def _report(
    num_found: int, num_references: int, kept: Sequence[Prompt], dropped: dict[str, int]
) -> None:
    logger.info(
        "%d prompts%s found, %d kept; dropped: %s",
        num_found,
        f" and {num_references} references" * (num_references > 0),
        len(kept),
        format_counts(dropped),
    )
