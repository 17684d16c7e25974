"""Adapters that runs kept: those of the served run's own files, and those of other runs.

In: the facts of gguf stages. Out: paths of adapters' files, and other runs' tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from potstill.errors import ArtifactError, ConfigError
from potstill.facts.gguf import GgufFacts
from potstill.files import sha256_file
from potstill.rundir import RunDirectory
from potstill.task.stage import read_task
from serve.chat.task import ServedTask
from serve.config import ServeConfig


def own_adapters(
    config: ServeConfig, facts: GgufFacts, gguf_dir: Path, paths: Mapping[str, Path]
) -> dict[str, Path]:
    """Return the adapter of each served model of the run that has one, by the model's name.

    A base that `serve.paths` names is served without.
    """
    adapters = {
        gguf_dir / file.file: gguf_dir / file.adapter for file in facts.files if file.adapter
    }
    return {
        name: adapters[path]
        for name, path in paths.items()
        if path in adapters and name not in config.paths
    }


def with_adapters_of_runs(
    config: ServeConfig, paths: Mapping[str, Path]
) -> tuple[ServeConfig, dict[str, ServedTask]]:
    """Replace runs that `serve.adapters` names by their adapters' files.

    Returns:
        The changed configuration, and the tasks of these runs by the adapters' names.

    Raises:
        ArtifactError: A run has no finished gguf stage, or it is damaged.
        ConfigError: A run kept no adapter, or it belongs to another base.
    """
    changed, tasks = dict(config.adapters), {}
    for name, adapter in config.adapters.items():
        if not adapter.path.is_dir():
            continue
        run_directory = RunDirectory(adapter.path)
        path = _adapter_for(paths.get(adapter.base), run_directory, f"serve.adapters.{name}")
        changed[name] = adapter.model_copy(update={"path": path})
        task = read_task(run_directory) if config.task else None
        if task is not None:
            tasks[name] = ServedTask(task, "student", enforces_schema=config.task_schema)
    return config.model_copy(update={"adapters": changed}), tasks


def _adapter_for(base_path: Path | None, run_directory: RunDirectory, where: str) -> Path:
    manifest = run_directory.require("gguf")
    hashes = {output.path: output.sha256 for output in manifest.outputs}
    files = [one for one in run_directory.facts(GgufFacts).files if one.adapter is not None]
    if not files:
        raise ArtifactError(
            "the run has no adapter",
            where=f"{where}.path = {run_directory.root}",
            expected="a student that was trained with train.lora.merge = false",
            found="a merged student",
        )
    # A base that is not served is reported where models are loaded.
    found = sha256_file(base_path) if base_path is not None and base_path.is_file() else None
    for file in files:
        if found in (None, hashes[file.file]):
            return run_directory.stage_dir("gguf") / str(file.adapter)
    raise ConfigError(
        "the adapter of a run belongs to another base",
        where=f"{where}.base",
        expected=" | ".join(f"{file.file}, sha256 {hashes[file.file]}" for file in files),
        found=f"{base_path}, sha256 {found}",
        hint="serve the same type of the same base, made without an importance matrix",
    )
