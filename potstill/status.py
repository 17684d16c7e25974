"""What a run has: its stages as a table.

In: a run directory. Out: a rich table of what is finished, begun or missing, with its facts. Knows
nothing of how stages work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from potstill.manifest import Manifest, read_manifest
from potstill.rundir import STAGE_NAMES, RunDirectory, StageName

Facts = Mapping[str, Any]


def status_table(run_directory: RunDirectory) -> Table:
    """Return one row a stage.

    Raises:
        ArtifactError: A manifest is damaged.
    """
    table = Table(
        title=escape(str(run_directory.root)), title_justify="left", box=SIMPLE, expand=True
    )
    for heading in ("stage", "state", "time", "size"):
        table.add_column(heading, no_wrap=True)
    table.add_column("facts", overflow="fold", ratio=1)
    for name in STAGE_NAMES:
        if run_directory.is_finished(name):
            manifest = read_manifest(run_directory.stage_dir(name))
            table.add_row(name, *map(escape, _finished(name, manifest)))
        else:
            begun = run_directory.partial_dir(name).is_dir()
            table.add_row(name, "begun" if begun else "missing")
    return table


def _finished(name: StageName, manifest: Manifest) -> tuple[str, ...]:
    seconds = manifest.stats.get("seconds", 0.0)
    num_bytes = sum(output.bytes for output in manifest.outputs)
    return (
        "finished",
        f"{seconds / 60:.1f} min",
        f"{num_bytes / 1e6:.1f} MB",
        _FACTS[name](manifest.facts, manifest.stats),
    )


def _prompts(facts: Facts, _stats: Facts) -> str:
    return f"{facts['num_prompts']} prompts, {facts['num_dropped']} left out"


def _samples(facts: Facts, stats: Facts) -> str:
    failed = f", {facts['num_failed']} failed" if facts["num_failed"] else ""
    return (
        f"{facts['teacher']['model']}: {sum(facts['num_conversations'].values())} conversations"
        f"{failed}; {stats['completion_tokens']:,.0f} completion tokens, "
        f"{stats['bytes_per_token']:.0f} bytes each"
    )


def _conversations(facts: Facts, stats: Facts) -> str:
    counts = ", ".join(f"{count} {split}" for split, count in facts["num_conversations"].items())
    return (
        f"{counts}; {stats['completion_tokens']:,.0f} completion tokens, "
        f"{facts['num_dropped']} conversations left out"
    )


def _student(facts: Facts, _stats: Facts) -> str:
    before, after = (facts["evaluation"][state] for state in ("untrained", "trained"))
    if after["kl_nats"] is None:  # Other tokens than the teacher's.
        nearness = (
            f"{before['nats_per_token']:.3f} → {after['nats_per_token']:.3f} nats per token of its "
            "own"
        )
    else:
        nearness = (
            f"KL {before['kl_nats']:.3f} → {after['kl_nats']:.3f} nats, top-1 agreement "
            f"{before['top1_agreement']:.1%} → {after['top1_agreement']:.1%}"
        )
    return (
        f"{facts['num_layers']} layers, {facts['num_parameters'] / 1e6:.1f}M parameters; {nearness}"
    )


def _gguf(facts: Facts, _stats: Facts) -> str:
    return f"{', '.join(file['name'] for file in facts['files'])}; served: {facts['recommended']}"


def _comparison(facts: Facts, _stats: Facts) -> str:
    outcome, student = facts["outcome"].replace("_", " "), facts["recommended"]
    row = next((row for row in facts["rows"] if row["name"] == student), None)
    if row is None:  # Two endpoints were compared, and no files.
        return f"{outcome}: {student} in place of {facts['reference']}"
    nearness = "" if row["kl_nats"] is None else f"KL {row['kl_nats']:.3f} nats, "
    return (
        f"{outcome}; {row['name']}: {nearness}{row['size_ratio']:.2f}x the size and "
        f"{row['speed_ratio']:.2f}x the speed of {facts['reference']}"
    )


_FACTS: dict[StageName, Callable[[Facts, Facts], str]] = {
    "prompts": _prompts,
    "samples": _samples,
    "conversations": _conversations,
    "student": _student,
    "gguf": _gguf,
    "comparison": _comparison,
}
