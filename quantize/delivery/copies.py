"""Copies of a student's GGUF files that carry the run's verdict in their lineage."""

from __future__ import annotations

from pathlib import Path

from potstill.errors import ConfigError
from potstill.facts.gguf import GgufFacts, GgufFile
from potstill.files import disk_errors, replacing
from potstill.lineage import Lineage
from potstill.models.rewriting import copy_with_texts
from potstill.rundir import RunDirectory


def student_file(run_directory: RunDirectory, name: str | None) -> GgufFile:
    """Return a student's file after its hash was verified.

    Args:
        name: Such as student-Q4_K_M; None: the recommended one.

    Raises:
        ArtifactError: The run has no GGUF files, or one is damaged.
        ConfigError: There is no such file.
    """
    run_directory.require("gguf")
    facts = run_directory.facts(GgufFacts)
    students = {file.name: file for file in facts.files if file.role == "student"}
    if name is not None and name not in students:
        raise ConfigError(
            "the run has no such file", where="--file", expected=", ".join(students), found=name
        )
    return students[name or facts.recommended]


def copy_file(source: Path, target: Path, lineage: Lineage) -> None:
    """Copy a GGUF file, and set its lineage.

    Raises:
        ArtifactError: The file cannot be read, or the disk is full.
    """
    with disk_errors("copying a GGUF file", target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary:
        copy_with_texts(source, temporary, lineage.texts())
