"""Which models a server has in this process: their files, adapters and tasks, by name.

In: the configuration and a run, or files. Out: `Models`. The student is that of the run's served
version.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from potstill.errors import ConfigError
from potstill.facts.gguf import GgufFacts
from potstill.facts.shared import Role
from potstill.files import file_version
from potstill.rundir import RunDirectory
from potstill.task.stage import read_task
from potstill.task.task import Task
from potstill.versions import read_versions, verified_run
from serve.adapters import own_adapters
from serve.chat.task import ServedTask
from serve.config import ServeConfig


@dataclass(frozen=True)
class Models:
    """The models in this process, and what belongs to them."""

    paths: Mapping[str, Path]
    """Files by the model's name."""
    checkpoints: Mapping[str, Path] = field(default_factory=dict)
    """Checkpoints for vLLM in child processes, by the model's name."""
    adapters: Mapping[str, Path] = field(default_factory=dict)
    """The adapters without which files are not complete, by the model's name."""
    task: Task | None = None
    tasks: Mapping[str, ServedTask] = field(default_factory=dict)
    """The task of each model that has it, by name."""
    traffic_path: Path | None = None
    """Where live traffic is stored if no database is named."""
    versions_path: Path | None = None
    """The run's file of versions, which may be absent; None without a run."""
    versions_seen: tuple[int, ...] | None = None
    """`file_version` of that file, before it was read."""
    version: int | None = None
    """The student's version; None before an update."""
    students: frozenset[str] = frozenset()
    """The names that stand for the run's student."""


def models_of(
    config: ServeConfig, run_directory: RunDirectory, *, is_verified: bool = False
) -> Models:
    """Return the models of a run: the teacher, and the student's served version.

    Args:
        is_verified: Whether the run's own files were verified, which takes long for large ones.

    Raises:
        ArtifactError: The version's files are missing or damaged.
        ConfigError: A model is unknown.
    """
    seen = file_version(run_directory.versions_path)
    served = read_versions(run_directory).current if config.versions else None
    student_run = run_directory
    if served is not None and not (is_verified and served.parent is None):
        student_run = verified_run(served, run_directory)
    facts, gguf_dir = run_directory.facts(GgufFacts), run_directory.stage_dir("gguf")
    own, own_dir = student_run.facts(GgufFacts), student_run.stage_dir("gguf")
    paths = model_paths(config, facts, gguf_dir, (own, own_dir))
    checkpoints: dict[str, Path] = {}
    if config.engine == "vllm" and "student" in paths and "student" not in config.paths:
        student_run.require("student")
        checkpoints["student"] = student_run.stage_dir("student")
        del paths["student"]
    task = read_task(run_directory) if config.task else None
    students = student_names(own)
    tasks = _served_tasks(task, config, facts)
    if config.task and student_run is not run_directory:
        learned = _served_tasks(read_task(student_run), config, own)
        tasks |= {name: one for name, one in learned.items() if name in students}
    adapters = own_adapters(config, facts, gguf_dir, paths)
    return Models(
        paths,
        checkpoints,
        adapters | own_adapters(config, own, own_dir, paths),
        task,
        tasks,
        run_directory.traffic_path,
        versions_path=run_directory.versions_path,
        versions_seen=seen,
        version=served.number if served and run_directory.versions_path.is_file() else None,
        students=students - config.paths.keys(),
    )


def model_paths(
    config: ServeConfig,
    facts: GgufFacts,
    gguf_dir: Path,
    student: tuple[GgufFacts, Path] | None = None,
) -> dict[str, Path]:
    """Find the file behind every model name, in the order of the configuration.

    Args:
        student: The gguf stage that has the student; None: the same.

    Raises:
        ConfigError: A name is neither an alias nor a file of the gguf stage.
    """
    own, own_dir = student or (facts, gguf_dir)
    files = {file.name: own_dir / file.file for file in own.files if file.role == "student"}
    aliases = {"student": files[own.recommended]}
    files |= {file.name: gguf_dir / file.file for file in facts.teacher_files}
    if facts.teacher_files:
        aliases["teacher"] = files[facts.teacher_files[0].name]
    paths = chosen(config, aliases | files, aliases) | config.paths
    return {name: path for name, path in paths.items() if name not in config.upstreams}


def chosen(
    config: ServeConfig, known: Mapping[str, Path], defaults: Iterable[str]
) -> dict[str, Path]:
    """Return the files of the configured models by name.

    Raises:
        ConfigError: A name is not known.
    """
    for name in config.models:
        if name not in known:
            raise ConfigError(
                f"there is no model {name!r} here",
                where="serve.models",
                expected=" | ".join(known),
                hint="serve.paths serves a file from elsewhere",
            )
    return {name: known[name] for name in config.models or defaults}


def student_names(facts: GgufFacts) -> frozenset[str]:
    """Return the names under which a run's student is served."""
    return frozenset({"student", *(one.name for one in facts.files if one.role == "student")})


def _served_tasks(
    task: Task | None, config: ServeConfig, facts: GgufFacts
) -> dict[str, ServedTask]:
    """Return the task of each model of the run, by name; files from elsewhere have none."""
    if task is None:
        return {}
    roles: dict[str, Role] = {"student": "student", "teacher": "teacher"}
    roles |= {file.name: file.role for file in facts.files}
    served = {
        role: ServedTask(task, role, enforces_schema=config.task_schema)
        for role in set(roles.values())
    }
    return {name: served[role] for name, role in roles.items() if name not in config.paths}
