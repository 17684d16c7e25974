"""The stages in order: found, configured, estimated and run.

In: a run directory and a configuration. Out: finished stages. A stage's package is imported when
the stage runs.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Group

from potstill.cards import Cards, MachineConfig
from potstill.config import (
    Table,
    apply_overrides,
    dump_toml,
    read_config_file,
    read_preset,
    validate_tables,
)
from potstill.errors import ConfigError, PotstillError
from potstill.facts.base import StageName
from potstill.files import disk_errors, write_text_atomically
from potstill.manifest import Manifest, read_manifest
from potstill.plan import Estimate, Workload, measure_machine, plan_table
from potstill.processes import child_process
from potstill.progress import published
from potstill.rundir import RunDirectory
from potstill.task.config import TaskConfig
from potstill.task.stage import current_task, write_task
from potstill.task.task import Task

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """One stage: a command, a table of the configuration and a package."""

    name: str
    makes: tuple[StageName, ...]
    """Directories of the run that it fills; empty for one that only reads."""
    config_class: str

    def table_class(self) -> type[Table]:
        """Return the class of its configuration table."""
        cls: type[Table] = getattr(import_module(f"{self.name}.config"), self.config_class)
        return cls

    def run(self, table: Table, run_directory: RunDirectory) -> Manifest:
        """Do the stage's work; finished parts are kept."""
        manifest: Manifest = self.call("stage", "run", table, run_directory)
        return manifest

    def run_share(self, table: Table, run_directory: RunDirectory, share: str) -> bool:
        """Do one share of the stage's work; return whether all shares are done."""
        is_last: bool = self.call("stage", "run_shard", table, run_directory, share)
        return is_last

    def estimate(self, table: Table, workload: Workload | Task | None) -> tuple[Estimate, Workload]:
        """Estimate the stage's cost, and what it leaves to the next one.

        Args:
            workload: What the stage before leaves; for the first stage the task.
        """
        estimated: tuple[Estimate, Workload] = self.call("estimate", "estimate", table, workload)
        return estimated

    def seconds(self, run_directory: RunDirectory) -> float | None:
        """Return how long the stage took; None where it is not finished.

        Raises:
            ArtifactError: A manifest is damaged.
        """
        if not all(map(run_directory.is_finished, self.makes)):
            return None
        manifests = (read_manifest(run_directory.stage_dir(name)) for name in self.makes)
        return sum(manifest.stats["seconds"] for manifest in manifests)

    def call(self, module: str, function: str, *arguments: object) -> Any:  # noqa: ANN401
        """Return what a function of the stage's package returns.

        Raises:
            PotstillError: The function's own, or a library is missing; the error names the extra
                that installs it.
        """
        try:
            return getattr(import_module(f"{self.name}.{module}"), function)(*arguments)
        except ModuleNotFoundError as error:
            raise PotstillError(
                f"{self.name} needs a Python package that is not installed",
                found=f"no module named {error.name!r}",
                hint=f"pip install 'potstill[{self.name}]'"
                + (", with cpu or gpu beside it for vLLM" if self.name == "generate" else ""),
            ) from error


PIPELINE = (
    Stage("generate", ("prompts", "samples", "conversations"), "GenerateConfig"),
    Stage("train", ("student",), "TrainConfig"),
    Stage("quantize", ("gguf",), "QuantizeConfig"),
    Stage("compare", ("comparison",), "CompareConfig"),
)
SERVE = Stage("serve", (), "ServeConfig")
STAGES = {stage.name: stage for stage in (*PIPELINE, SERVE)}


@dataclass(frozen=True)
class Choice:
    """The configuration that the user chose: at most one of preset and file, and overrides."""

    preset: str | None = None
    path: Path | None = None
    overrides: tuple[str, ...] = ()

    def options(self) -> list[str]:
        """Return the same choice as options of the command line."""
        given = [f"--set={override}" for override in self.overrides]
        if self.preset is not None:
            given.append(f"--preset={self.preset}")
        if self.path is not None:
            given.append(f"--config={self.path}")
        return given


def resolve(choice: Choice, run_directory: RunDirectory | None = None) -> dict[str, Table]:
    """Return all tables, the task's too: from preset or file, else the run's own, else defaults.

    Args:
        run_directory: None, where there is no run, has no configuration of its own.

    Raises:
        ConfigError: Something in it cannot be read, is unknown or out of range.
    """
    content: dict[str, Any] = {}
    source = "--set"
    if choice.preset is not None:
        content, source = read_preset(choice.preset), f"preset {choice.preset}"
    elif path := choice.path or _own_config_path(run_directory):
        content, source = read_config_file(path), str(path)
    classes: dict[str, type[Table]] = {"task": TaskConfig, "machine": MachineConfig}
    classes |= {name: stage.table_class() for name, stage in STAGES.items()}
    validate_tables(content, classes, source)
    return validate_tables(apply_overrides(content, choice.overrides), classes, "--set")


def _own_config_path(run_directory: RunDirectory | None) -> Path | None:
    path = run_directory and run_directory.config_path
    return path if path and path.is_file() else None


def run_stage(
    stage: Stage,
    choice: Choice,
    run_directory: RunDirectory,
    *,
    force: bool = False,
    wait: bool = False,
    goes_on: bool = False,
) -> Manifest:
    """Run one stage in this process; the run keeps the table of the configuration that made it.

    Args:
        goes_on: Raise where there is no run yet, instead of beginning one.
        wait: Wait for another process that works on the run, instead of raising.

    Returns:
        The manifest of what was made, or served.

    Raises:
        PotstillError: The stage's own, or another process works on the run.
    """
    tables = resolve(choice, run_directory)
    if goes_on:
        run_directory.require_run()
    if not stage.makes:
        return stage.run(tables[stage.name], run_directory)
    with working(run_directory, tables, stage.name, wait=wait):
        if force:
            _set_aside(run_directory, [stage])
        return stage.run(tables[stage.name], run_directory)


@contextmanager
def working(
    run_directory: RunDirectory, tables: dict[str, Table], *names: str, wait: bool = False
) -> Iterator[None]:
    """Hold the run for this process; it keeps the task and, at the end, the tables that were used.

    Args:
        names: The tables that decide what is made.
        wait: Wait for another process that works on the run, instead of raising.

    Raises:
        PotstillError: The task cannot be read, or another process works on the run.
    """
    with run_directory.locked(wait=wait):
        if not run_directory.config_path.is_file():
            _write_config(tables, run_directory)
        _write_task(tables, run_directory)
        with published(run_directory.step_path):
            yield
        own = resolve(Choice(), run_directory)
        _write_config(own | {name: tables[name] for name in ("task", *names)}, run_directory)


def run_share(stage: Stage, choice: Choice, run_directory: RunDirectory, share: str) -> None:
    """Do one share of a stage's work beside other processes; the last to end finishes the stage.

    Args:
        share: `i/n`.

    Raises:
        PotstillError: The stage's own, or another process does the same share.
    """
    tables = resolve(choice, run_directory)
    with run_directory.locked("-config", wait=True):
        if not run_directory.config_path.is_file():
            _write_config(tables, run_directory)
        _write_task(tables, run_directory)
    if stage.run_share(tables[stage.name], run_directory, share):
        run_stage(stage, choice, run_directory, wait=True)


def run_pipeline(
    choice: Choice, run_directory: RunDirectory, *, force: bool, options: Sequence[str] = ()
) -> int:
    """Run all stages in order, each in a process of its own, so that none holds another's memory.

    Args:
        options: Further options for each stage's command.

    Returns:
        The exit code of the first stage that failed, else 0.

    Raises:
        PotstillError: A setting is wrong, a stage cannot work with a model, or one was killed.
    """
    tables = resolve(choice, run_directory)
    estimated = None
    with suppress(ConfigError):  # A model that is not on this machine yet cannot be estimated.
        estimated = estimate(tables, run_directory)
    if force:
        with run_directory.locked():
            _set_aside(run_directory, PIPELINE)
    if estimated is not None:
        _keep_estimate(*estimated, cards_of(tables), run_directory)
    for stage in PIPELINE:
        command = [sys.executable, "-m", "potstill", "stage", str(run_directory.root), stage.name]
        command += [*choice.options(), *options]
        with child_process(command) as process:
            code = process.wait()
        if code < 0:
            raise PotstillError(
                f"the {stage.name} stage was killed",
                where=run_directory.root,
                found=signal.Signals(-code).name,
                hint="the system kills processes when memory runs out: --dry-run shows what "
                "a stage needs; run the same command again, without --force, to resume",
            )
        if code != 0:
            return code
    return 0


def plan(choice: Choice, run_directory: RunDirectory, *, force: bool) -> Group:
    """Return a table of what `run_pipeline` would cost.

    Raises:
        PotstillError: The configuration or a file that it names cannot be used.
    """
    tables = resolve(choice, run_directory)
    estimates, workload = estimate(tables, run_directory)
    finished = [
        stage.name
        for stage in PIPELINE
        if not force and all(map(run_directory.is_finished, stage.makes))
    ]
    is_work_left = len(finished) < len(PIPELINE)
    machine = measure_machine(workload.teacher) if is_work_left else None
    return plan_table(estimates, finished, machine, cards_of(tables))


def estimate(
    tables: dict[str, Table], run_directory: RunDirectory, stages: Sequence[Stage] = PIPELINE
) -> tuple[list[Estimate], Workload]:
    """Estimate each stage; raises errors of late stages before any work is done.

    Args:
        stages: The first ones, in order.

    Returns:
        The stages' estimates, and what the last one leaves to the next.

    Raises:
        PotstillError: A setting or a file that it names cannot be used.
    """
    first, *others = stages
    cost, workload = first.estimate(tables[first.name], _task(tables, run_directory))
    estimates = [cost]
    for stage in others:
        cost, workload = stage.estimate(tables[stage.name], workload)
        estimates.append(cost)
    return estimates, workload


def read_estimate(run_directory: RunDirectory) -> dict[str, float]:
    """Return the seconds that stages were estimated to take; empty where that is not known."""
    try:
        kept = json.loads(run_directory.estimate_path.read_text(encoding="utf-8"))
        return {str(name): float(seconds) for name, seconds in kept.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _keep_estimate(
    estimates: Sequence[Estimate],
    workload: Workload,
    cards: Cards | None,
    run_directory: RunDirectory,
) -> None:
    """Log and keep how long a run that has no finished stage will take."""
    if any(run_directory.is_finished(name) for stage in PIPELINE for name in stage.makes):
        return
    machine = measure_machine(workload.teacher)
    seconds = {cost.stage: cost.placed(machine, cards).seconds for cost in estimates}
    known = {stage: round(one) for stage, one in seconds.items() if one is not None}
    if known:
        logger.info("this will take about %.0f minutes", sum(known.values()) / 60)
        with disk_errors("writing the estimate", run_directory.estimate_path):
            run_directory.root.mkdir(parents=True, exist_ok=True)
            write_text_atomically(run_directory.estimate_path, json.dumps(known))


def _set_aside(run_directory: RunDirectory, stages: Iterable[Stage]) -> None:
    for stage in stages:
        for name in stage.makes:
            run_directory.set_aside(name)


def cards_of(tables: dict[str, Table]) -> Cards | None:
    """Return the GPUs that an estimate is for; None: there are none."""
    config = tables["machine"]
    return Cards.of(config) if isinstance(config, MachineConfig) else None


def _task(tables: dict[str, Table], run_directory: RunDirectory) -> Task | None:
    config = tables["task"]
    return current_task(config, run_directory) if isinstance(config, TaskConfig) else None


def _write_task(tables: dict[str, Table], run_directory: RunDirectory) -> None:
    config = tables["task"]
    if isinstance(config, TaskConfig):
        write_task(config, run_directory)


def _write_config(tables: dict[str, Table], run_directory: RunDirectory) -> None:
    with disk_errors("writing the configuration", run_directory.config_path):
        write_text_atomically(run_directory.config_path, dump_toml(tables))
