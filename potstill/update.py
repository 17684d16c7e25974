"""The next version of a served student: `potstill update`.

In: a run that was served, with what it recorded. Out: another run, whose student starts from the
served one and learns what that one failed at; it is served if it passes against the teacher and
against the served student. Nothing of the first run changes but its `versions.json`, at the end.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from potstill.config import Table, dump_toml, validate_tables
from potstill.errors import ArtifactError, ConfigError, PotstillError
from potstill.facts.base import StageName
from potstill.facts.comparison import ComparisonFacts
from potstill.facts.gguf import GgufFacts
from potstill.facts.update import SOURCE_PREFIX, UpdateFacts
from potstill.files import disk_errors, unfinished_path, write_text_atomically
from potstill.pipeline import STAGES, Choice, resolve, run_pipeline
from potstill.rundir import SCRATCH_NAME, RunDirectory
from potstill.tables import PROMPT_SCHEMA, prompt_from_row, read_rows
from potstill.task.stage import read_task
from potstill.verdict.outcome import Outcome
from potstill.versions import (
    Versions,
    add_version,
    read_versions,
    relative,
    verified_run,
)

logger = logging.getLogger(__name__)

CONFIG_NAME, PROMPTS_NAME = "config.toml", "prompts.jsonl"
RECORDED_NAME = "recorded.jsonl"
HELD_OUT = "held out"
LEAST_PROMPTS = 3
NEEDED: tuple[StageName, ...] = ("student", "conversations")
"""Stages of the served version that the next one is made from, beside its files."""


@dataclass(frozen=True)
class Wanted:
    """What goes into the next version."""

    to: Path | None = None
    """Directory of its run; None: the first run's name with the version's number."""
    most: int = 1000
    """Most failures of each kind."""
    recent: int = 0
    """Most other recorded requests, whatever their answers were."""


def update(
    choice: Choice,
    run_directory: RunDirectory,
    wanted: Wanted,
    *,
    accept: bool = False,
    options: Sequence[str] = (),
) -> Outcome:
    """Make, judge and, if it passes, serve the next version; resume an interrupted update.

    Args:
        choice: Settings of the next run that are not those of the served version's run.
        accept: Serve it whatever the verdict is.
        options: Further options for each stage's command.

    Returns:
        The verdict.

    Raises:
        PotstillError: There is nothing to learn from, the served version cannot be updated, or a
            stage failed, which has printed why.
    """
    next_run = begin(choice, run_directory, wanted)
    # Once more: a setting may be what lets an interrupted update go on.
    own = Choice(path=next_run.stage_dir("update") / CONFIG_NAME, overrides=choice.overrides)
    code = run_pipeline(own, next_run, force=False, options=options)
    if code != 0:
        raise PotstillError(
            "a stage of the next version failed; the served version stays",
            where=next_run.root,
            hint="its error is above; the same command resumes the update",
        )
    outcome = Outcome(next_run.facts(ComparisonFacts).outcome)
    reason = f"its verdict is {outcome}" + (", accepted" if outcome is not Outcome.PASS else "")
    is_served = accept or outcome is Outcome.PASS
    version = add_version(run_directory, next_run, reason if is_served else None)
    if is_served:
        logger.info("version %d is served; go back with --rollback", version.number)
    else:
        logger.warning(
            "version %d is not served: %s; potstill versions %s --serve %d serves it anyway",
            *(version.number, outcome, run_directory.root, version.number),
        )
    return outcome


def begin(choice: Choice, run_directory: RunDirectory, wanted: Wanted) -> RunDirectory:
    """Collect the prompts of the next version and write its configuration, unless that is done.

    Raises:
        ConfigError: There is nothing to learn from, or the served version cannot be updated.
        ArtifactError: The other directory is a run of something else, or a file is damaged.
    """
    if run_directory.is_finished("update"):
        raise ConfigError(
            "this run is a version of another one",
            where=run_directory.root,
            expected="the run that is served",
            hint="update that one: it knows all versions",
        )
    versions = read_versions(run_directory)
    parent = versions.current
    parent_run = verified_run(parent, run_directory)
    _require_parent(parent_run)
    next_run = _next_run(run_directory, versions, wanted.to)
    pinned = {"parent": parent.gguf_sha256}
    if next_run.is_finished("update"):
        next_run.open_stage("update", pinned)  # Refuses an update of another version.
        return next_run
    with next_run.locked():
        if next_run.config_path.exists():
            raise ArtifactError(
                "the directory holds another run",
                where=next_run.root,
                expected="a directory that does not exist",
                hint="name another one with --to",
            )
        _copy_task(parent_run, next_run)
        session = next_run.open_stage("update", pinned)
        with disk_errors("collecting prompts", session.dir):
            session.scratch_dir.mkdir(exist_ok=True)
        serve = resolve(choice, run_directory)["serve"]
        counts = _collect(serve, run_directory, parent_run, versions, session.dir, wanted)
        prompts_path = next_run.stage_dir("update") / PROMPTS_NAME
        tables = resolve(choice, parent_run)
        config = _next_config(tables, parent_run, prompts_path, sum(counts.values()))
        with disk_errors("writing the configuration", session.dir):
            write_text_atomically(session.dir / CONFIG_NAME, dump_toml(config))
        session.finish(
            facts=UpdateFacts(
                number=versions.next_number,
                parent=relative(parent_run.root, next_run.root),
                parent_number=parent.number,
                parent_gguf_sha256=parent.gguf_sha256,
                num_prompts=counts,
            ),
        )
    return next_run


def _next_run(run_directory: RunDirectory, versions: Versions, to: Path | None) -> RunDirectory:
    root = run_directory.root.absolute()
    return RunDirectory(to or root.with_name(f"{root.resolve().name}-v{versions.next_number}"))


def _require_parent(parent_run: RunDirectory) -> None:
    for stage in NEEDED:
        parent_run.require(stage)
    file = parent_run.facts(GgufFacts).recommended_file
    if file.adapter is not None:
        raise ConfigError(
            "a student that is kept as an adapter cannot be updated",
            where=parent_run.root,
            expected="train.lora.merge = true",
            found=f"{file.name} with {file.adapter}",
            hint="train its task again, with its failures among generate.prompts.sources",
        )


def _copy_task(parent_run: RunDirectory, next_run: RunDirectory) -> None:
    """Keep the task in the run: the files that it was made from may be gone."""
    target = next_run.stage_dir("task")
    if not parent_run.is_finished("task") or target.exists():
        return
    with disk_errors("copying the task", target):
        copy = unfinished_path(target)
        shutil.copytree(parent_run.stage_dir("task"), copy, dirs_exist_ok=True)
        copy.rename(target)


def _collect(
    serve: Table,
    run_directory: RunDirectory,
    parent_run: RunDirectory,
    versions: Versions,
    directory: Path,
    wanted: Wanted,
) -> dict[str, int]:
    """Write the prompts of the next version; return their number by what they are."""
    recorded = directory / SCRATCH_NAME / RECORDED_NAME
    since = _served_since(versions)
    STAGES["serve"].call(
        "recorded",
        "write_failures",
        *(serve, run_directory, recorded, since, wanted.most, wanted.recent),
    )
    with recorded.open("a", encoding="utf-8") as stream:
        for row in _held_out(parent_run):
            stream.write(json.dumps(row) + "\n")
    path = directory / PROMPTS_NAME
    path.unlink(missing_ok=True)
    generate = STAGES["generate"]
    found = generate.call("imports.reading", "read_requests", [str(recorded)])
    written = generate.call("imports.write", "write_requests", found, path)
    for sentence in written.losses():
        logger.warning("%s", sentence)
    with path.open(encoding="utf-8") as lines:
        sources = Counter(str(json.loads(line)["source"]) for line in lines)
    counts = {name.removeprefix(SOURCE_PREFIX): count for name, count in sources.items()}
    logger.info("requests: %s", ", ".join(f"{count} {name}" for name, count in counts.items()))
    return counts


def _served_since(versions: Versions) -> float:
    """Return when the version was served first, in seconds since 1970; 0 for the first one."""
    number = versions.current.number
    times = (one.at for one in versions.switches if one.number == number)
    first = next(times, None) if versions.current.parent is not None else None
    return datetime.fromisoformat(first).timestamp() if first else 0.0


def _held_out(parent_run: RunDirectory) -> Iterator[dict[str, Any]]:
    """Yield the version's test prompts; none where a task's references take their place.

    They fall into the test split again, beside new ones: similar prompts always do.
    """
    task = read_task(parent_run)
    if (task and task.references) or not parent_run.is_finished("prompts"):
        return
    path = parent_run.stage_dir("prompts") / "prompts.parquet"
    for prompt in map(prompt_from_row, read_rows(path, PROMPT_SCHEMA)):
        if prompt.split == "test":
            row = {"messages": [one.to_chat() for one in prompt.messages]}
            tools = {"tools": json.loads(prompt.tools)} if prompt.tools else {}
            yield row | tools | {"source": SOURCE_PREFIX + HELD_OUT, "license": prompt.license}


def _next_config(
    tables: dict[str, Table], parent_run: RunDirectory, prompts_path: Path, num_prompts: int
) -> dict[str, Table]:
    """Return the configuration of the next run: the version's, with another start and data."""
    root = parent_run.root.absolute()
    content = {
        name: table.model_dump(mode="json", exclude_none=True) for name, table in tables.items()
    }
    generate, train = content["generate"], content["train"]
    generate["prompts"].pop("path", None)
    generate["prompts"] |= {
        "sources": [{"path": str(prompts_path.absolute())}],
        "num_prompts": max(LEAST_PROMPTS, num_prompts),
    }
    # What was recorded are not answers to learn from, and a copy is the first run's.
    if generate["turns"]["kind"] == "score":
        generate["turns"]["kind"] = "single"
    generate.pop("copy_to", None)
    generate["reuse"] = str(root) if parent_run.is_finished("samples") else None
    calibration = "max_calibration_conversations"
    train["student"] = {
        "checkpoint": str(root / "student"),
        calibration: train["student"][calibration],
    }
    replayed = [one for one in train["replay"] if one != str(root)]
    train["replay"] = [*replayed, str(root)]
    content["compare"]["former_run"] = str(root)
    classes = {name: type(table) for name, table in tables.items()}
    return validate_tables(content, classes, "the next version's configuration")
