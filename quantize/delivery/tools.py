"""The directories that other tools want, and what to type there.

In: a run. Out: a directory for one of `TOOLS`, and the commands that use it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from potstill.errors import ConfigError
from potstill.facts.gguf import GgufFile
from potstill.files import disk_errors, write_text_atomically
from potstill.lineage import LINEAGE_NAME, lineage_of_run
from potstill.manifest import MANIFEST_NAME
from potstill.rundir import RunDirectory
from quantize.delivery.copies import copy_file, student_file
from quantize.delivery.ollama import NAME as MODELFILE
from quantize.delivery.ollama import modelfile_of

PUBLISHER = "potstill"
"""Folder of the models in LM Studio's directory: publisher, model, file."""
PORT = 8000
"""Default of `serve.port`."""


@dataclass(frozen=True)
class Export:
    """What is exported where."""

    run: RunDirectory
    file: GgufFile
    dir: Path

    @property
    def name(self) -> str:
        """The model's name in the tool: the run's."""
        return self.run.root.resolve().name.lower()

    def copy_files(self, directory: Path) -> None:
        """Copy the file, and its adapter if it has one."""
        lineage = lineage_of_run(self.run)
        for name in filter(None, (self.file.file, self.file.adapter)):
            copy_file(self.run.stage_dir("gguf") / name, directory / name, lineage)


def export(run_directory: RunDirectory, tool: str, directory: Path, file: str | None) -> list[str]:
    """Write the directory, and return the commands to type.

    Args:
        tool: One of `TOOLS`.
        directory: New, or empty.
        file: Name of a student's file; None: the recommended one.

    Raises:
        ConfigError: The tool or file is unknown, or the directory is not empty.
        ArtifactError: The run has no student, a file is damaged, or the disk is full.
    """
    if tool not in TOOLS:
        raise ConfigError(
            "potstill does not export for this tool",
            where="--for",
            expected=", ".join(TOOLS),
            found=tool,
        )
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigError(
            "the directory is not empty", where=directory, hint="name another one with --to"
        )
    wanted = Export(run_directory, student_file(run_directory, file), directory)
    with disk_errors("exporting", directory):
        directory.mkdir(parents=True, exist_ok=True)
    return TOOLS[tool](wanted)


def _ollama(wanted: Export) -> list[str]:
    wanted.copy_files(wanted.dir)
    path = wanted.dir / MODELFILE
    write_text_atomically(path, modelfile_of(wanted.run, wanted.file.file))
    create = f"ollama create {quote(wanted.name)} -f {quote(str(path))}"
    return [create, f"ollama run {quote(wanted.name)}"]


def _lm_studio(wanted: Export) -> list[str]:
    _refuse_adapter(wanted, "LM Studio")
    wanted.copy_files(wanted.dir / PUBLISHER / wanted.name)
    return [
        f"cp -r {quote(str(wanted.dir / PUBLISHER))} ~/.lmstudio/models/",
        f"lms load {quote(f'{PUBLISHER}/{wanted.name}')}",
    ]


def _llamafile(wanted: Export) -> list[str]:
    wanted.copy_files(wanted.dir)
    arguments = ["-m", wanted.file.file]
    if wanted.file.adapter is not None:
        arguments += ["--lora", wanted.file.adapter]
    write_text_atomically(wanted.dir / ".args", "\n".join(arguments) + "\n")
    target = quote(f"{wanted.name}.llamafile")
    files = " ".join(quote(one.name) for one in sorted(wanted.dir.glob("*.gguf")))
    packed = f'cp "$(command -v llamafile)" {target} && zipalign -j0 {target} {files} .args'
    return [f"cd {quote(str(wanted.dir))} && {packed}", f"./{target}"]


def _copy_checkpoint(wanted: Export) -> None:
    wanted.run.require("student")
    with disk_errors("exporting the checkpoint", wanted.dir):
        shutil.copytree(
            wanted.run.stage_dir("student"),
            wanted.dir,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns(MANIFEST_NAME, "curves.png", "generations.jsonl"),
        )
    write_text_atomically(wanted.dir / LINEAGE_NAME, lineage_of_run(wanted.run).document)


def _vllm(wanted: Export) -> list[str]:
    _copy_checkpoint(wanted)
    name = quote(wanted.name)
    return [
        f"vllm serve {quote(str(wanted.dir))} --served-model-name {name} --port {PORT}",
        f"curl http://127.0.0.1:{PORT}/v1/models",
    ]


def _mlx(wanted: Export) -> list[str]:
    _refuse_adapter(wanted, "mlx-lm")
    _copy_checkpoint(wanted)
    source, small = (quote(f"{wanted.dir}{suffix}") for suffix in ("", "-4bit"))
    return [
        f"mlx_lm.convert --hf-path {source} --mlx-path {small} -q",
        f"mlx_lm.server --model {small} --port {PORT}",
    ]


def _open_webui(wanted: Export) -> list[str]:
    lines = [f"OPENAI_API_BASE_URL=http://127.0.0.1:{PORT}/v1", "OPENAI_API_KEY=none"]
    lines += ["ENABLE_OLLAMA_API=false"]
    write_text_atomically(wanted.dir / "open-webui.env", "\n".join(lines) + "\n")
    return [
        f"potstill serve {quote(str(wanted.run.root))} --set serve.port={PORT}",
        f"set -a; . {quote(str(wanted.dir / 'open-webui.env'))}; open-webui serve --port 8080",
    ]


def _refuse_adapter(wanted: Export, tool: str) -> None:
    if wanted.file.adapter is not None:
        raise ConfigError(
            f"{tool} cannot load the student's adapter beside its base",
            where=wanted.run.root,
            hint="train with train.lora.merge = true",
        )


TOOLS: dict[str, Callable[[Export], list[str]]] = {
    "ollama": _ollama,
    "lm-studio": _lm_studio,
    "llamafile": _llamafile,
    "vllm": _vllm,
    "mlx": _mlx,
    "open-webui": _open_webui,
}
"""How each tool's directory is written; each returns the commands to type."""
