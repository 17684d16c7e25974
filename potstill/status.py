"""The stages of a run as a table: finished, partial or missing, with their facts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch
from typing import Literal

from rich.box import SIMPLE
from rich.table import Table

from potstill.facts.base import OPTIONAL_STAGES, STAGE_NAMES, Facts
from potstill.facts.baseline import BaselineFacts
from potstill.facts.comparison import ComparisonFacts
from potstill.facts.conversations import ConversationsFacts
from potstill.facts.curve import CurveFacts
from potstill.facts.gguf import GgufFacts
from potstill.facts.prompts import PromptsFacts
from potstill.facts.samples import SamplesFacts, SignalStats
from potstill.facts.student import StudentFacts
from potstill.facts.task import TaskFacts
from potstill.facts.update import UpdateFacts
from potstill.manifest import Manifest, read_manifest
from potstill.rundir import RunDirectory
from potstill.versions import counts_in_words

State = Literal["finished", "begun", "missing"]


@dataclass(frozen=True)
class StageRow:
    """A stage of a run; texts are empty unless it is finished."""

    name: str
    state: State
    time: str = ""
    size: str = ""
    facts: str = ""


def stage_rows(run_directory: RunDirectory) -> list[StageRow]:
    """Return one row a stage.

    Raises:
        ArtifactError: A manifest is damaged.
    """
    rows = []
    for name in STAGE_NAMES:
        if run_directory.is_finished(name):
            rows.append(_finished(name, read_manifest(run_directory.stage_dir(name))))
        elif run_directory.partial_dir(name).is_dir():
            rows.append(StageRow(name, "begun"))
        elif name not in OPTIONAL_STAGES:
            rows.append(StageRow(name, "missing"))
    return rows


def status_table(run_directory: RunDirectory) -> Table:
    """Return the stages as a table; raises as `stage_rows` does."""
    table = Table(title=str(run_directory.root), title_justify="left", box=SIMPLE, expand=True)
    for heading in ("stage", "state", "time", "size"):
        table.add_column(heading, no_wrap=True)
    table.add_column("facts", overflow="fold", ratio=1)
    for row in stage_rows(run_directory):
        table.add_row(row.name, row.state, row.time, row.size, row.facts)
    return table


def _finished(name: str, manifest: Manifest) -> StageRow:
    seconds = manifest.stats.get("seconds", 0.0)
    num_bytes = sum(output.bytes for output in manifest.outputs)
    return StageRow(
        name,
        "finished",
        f"{seconds / 60:.1f} min",
        f"{num_bytes / 1e6:.1f} MB",
        _in_words(manifest.facts, manifest),
    )


@singledispatch
def _in_words(_facts: Facts | None, _manifest: Manifest) -> str:
    return ""


@_in_words.register
def _(facts: UpdateFacts, _manifest: Manifest) -> str:
    prompts = counts_in_words(facts.num_prompts)
    return f"version {facts.number}, from version {facts.parent_number}; {prompts}"


@_in_words.register
def _(facts: PromptsFacts, _manifest: Manifest) -> str:
    return f"{facts.num_prompts:,} prompts, {facts.num_dropped:,} left out"


@_in_words.register
def _(facts: SamplesFacts, manifest: Manifest) -> str:
    failed = f", {facts.num_failed} failed" if facts.num_failed else ""
    stats = manifest.stats_as(SignalStats)
    return (
        f"{facts.teacher.model}: {sum(facts.num_conversations.values()):,} conversations{failed}; "
        f"{stats.completion_tokens:,} completion tokens, {stats.bytes_per_token:.0f} bytes each"
    )


@_in_words.register
def _(facts: ConversationsFacts, manifest: Manifest) -> str:
    counts = ", ".join(f"{count:,} {split}" for split, count in facts.num_conversations.items())
    stats = manifest.stats_as(SignalStats)
    return (
        f"{counts}; {stats.completion_tokens:,} completion tokens, "
        f"{facts.num_dropped:,} conversations left out"
    )


@_in_words.register
def _(facts: StudentFacts, _manifest: Manifest) -> str:
    before, after = facts.evaluation.untrained, facts.evaluation.trained
    if after.kl_nats is None:  # Other tokens than the teacher's.
        nearness = (
            f"loss {before.nats_per_token:.3f} → {after.nats_per_token:.3f} nats per token of its "
            "own tokenizer"
        )
    else:
        nearness = (
            f"KL {before.kl_nats:.3f} → {after.kl_nats:.3f} nats, top-1 agreement "
            f"{before.top1_agreement:.1%} → {after.top1_agreement:.1%}"
        )
    return f"{facts.num_layers} layers, {facts.num_parameters / 1e6:.1f}M parameters; {nearness}"


@_in_words.register
def _(facts: BaselineFacts, _manifest: Manifest) -> str:
    return f"{facts.num_examples} known answers, {facts.num_epochs:g} epochs, {facts.file.name}"


@_in_words.register
def _(facts: CurveFacts, _manifest: Manifest) -> str:
    points = (f"{one.num_conversations:,}: {one.figure.value:.3f}" for one in facts.points)
    more = facts.projections[0]
    return (
        f"{facts.metric} by conversations: {', '.join(points)}; {more.num_conversations:,} would "
        f"reach {more.figure.value:.3f} ({more.figure.low:.3f} to {more.figure.high:.3f})"
    )


@_in_words.register
def _(facts: GgufFacts, _manifest: Manifest) -> str:
    return f"{', '.join(file.name for file in facts.files)}; served: {facts.recommended}"


@_in_words.register
def _(facts: TaskFacts, _manifest: Manifest) -> str:
    measured = f"; measured: {', '.join(facts.metrics)}" if facts.metrics else ""
    return (
        f"{facts.num_examples} examples ({facts.num_known} with known answers), "
        f"{facts.num_references} references, {facts.num_tools} tools{measured}"
    )


@_in_words.register
def _(facts: ComparisonFacts, _manifest: Manifest) -> str:
    outcome, row = facts.outcome.replace("_", " "), facts.recommended_row
    if missed := [one.name for one in facts.gate if one.required and one.outcome != "PASS"]:
        outcome += f" (gate: {', '.join(missed)} not passed)"
    if row is None:
        return f"{outcome}: {facts.recommended} in place of {facts.reference}"
    nearness = "" if row.kl_nats is None else f"KL {row.kl_nats:.3f} nats, "
    return (
        f"{outcome}; {row.name}: {nearness}{row.size_ratio:.2f}x the size and "
        f"{row.speed_ratio:.2f}x the tokens per second of {facts.reference}"
    )
