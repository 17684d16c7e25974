"""The versions of a served student: which there are, which one is served, and how it came to that.

In: the run that is served. Out: its `versions.json`, which is complete or absent, so that a change
of the served version happens or does not. Servers of the run follow the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from potstill.errors import ArtifactError, ConfigError, SchemaVersionError, first_line
from potstill.facts.base import Record
from potstill.facts.comparison import ComparisonFacts
from potstill.facts.gguf import GgufFacts
from potstill.facts.update import UpdateFacts
from potstill.files import disk_errors, write_text_atomically
from potstill.manifest import manifest_sha256, read_manifest
from potstill.rundir import RunDirectory

SCHEMA_VERSION = 1
LOCK = "-versions"
OutcomeName = Literal["PASS", "FAIL", "INCONCLUSIVE", "INVALID_JUDGE"]


class Version(Record):
    """One version of the student."""

    number: int = Field(ge=1)
    run: str
    """Directory of its run, relative to that of the served run."""
    parent: int | None
    """The version that it was trained from; None of the first."""
    gguf_sha256: str
    """Hash of the manifest of its gguf stage."""
    added_at: str
    """UTC."""


class Switch(Record):
    """A change of the served version."""

    number: int
    """The version served from then on."""
    at: str
    """UTC."""
    reason: str


class Versions(Record):
    """The content of `versions.json`."""

    schema_version: int = SCHEMA_VERSION
    versions: tuple[Version, ...] = Field(min_length=1)
    switches: tuple[Switch, ...] = ()

    @property
    def current(self) -> Version:
        """The version that is served."""
        return self.of(self.switches[-1].number) if self.switches else self.versions[0]

    @property
    def next_number(self) -> int:
        """The number of a further version."""
        return max(one.number for one in self.versions) + 1

    def of(self, number: int) -> Version:
        """Return a version by its number.

        Raises:
            ConfigError: There is none.
        """
        found = next((one for one in self.versions if one.number == number), None)
        if found is None:
            known = ", ".join(str(one.number) for one in self.versions)
            raise ConfigError("there is no such version", expected=known, found=number)
        return found

    def with_version(self, version: Version) -> Versions:
        """Return the same with a version, in place of one with its number."""
        others = [one for one in self.versions if one.number != version.number]
        ordered = sorted([*others, version], key=lambda one: one.number)
        return self.model_copy(update={"versions": tuple(ordered)})

    def switched(self, number: int, reason: str) -> Versions:
        """Return the same with another served version."""
        switch = Switch(number=self.of(number).number, at=now(), reason=reason)
        return self.model_copy(update={"switches": (*self.switches, switch)})


class VersionRow(Record):
    """A version as tables show it."""

    number: int
    run: str
    """Name of its directory."""
    made_at: str
    """When its files were made (UTC)."""
    parent: int | None
    num_prompts: dict[str, int] = Field(default_factory=dict)
    """Prompts that it was made for, by what they are; empty of the first."""
    file: str
    """Name of the recommended file."""
    outcome: OutcomeName | None
    """Verdict of its own comparison; None: none is finished."""


def read_versions(run_directory: RunDirectory) -> Versions:
    """Return a run's versions; a run without updates has one, its own student.

    Raises:
        ArtifactError: The file cannot be read, or the run has no student's file.
        SchemaVersionError: A later potstill wrote it.
    """
    path = run_directory.versions_path
    if not path.is_file():
        return Versions(versions=(_own_version(run_directory),))
    try:
        with disk_errors("reading the versions", path):
            found = Versions.model_validate_json(path.read_text(encoding="utf-8"))
        for switch in found.switches:
            found.of(switch.number)
    except (ValidationError, ConfigError, UnicodeDecodeError) as error:
        raise ArtifactError(
            "the versions of the student cannot be read",
            where=path,
            found=first_line(error),
            hint="restore the file; without it, the run's own student is served",
        ) from error
    if found.schema_version > SCHEMA_VERSION:
        raise SchemaVersionError(
            "a later potstill wrote the versions of the student",
            where=path,
            expected=f"schema_version {SCHEMA_VERSION}",
            found=found.schema_version,
            hint="upgrade potstill",
        )
    return found


def add_version(
    run_directory: RunDirectory, next_run: RunDirectory, reason: str | None = None
) -> Version:
    """List a finished run as a version, and serve it in the same change if there is a reason to.

    Args:
        reason: Why it is served; None: it is not.

    Raises:
        ArtifactError: The run is not finished or is no version of this one, or its files are
            damaged.
    """
    facts = next_run.facts(UpdateFacts)
    with run_directory.locked(LOCK, wait=True):
        before = versions = read_versions(run_directory)
        version = Version(
            number=facts.number,
            run=relative(next_run.root, run_directory.root),
            parent=facts.parent_number,
            gguf_sha256=manifest_sha256(next_run.stage_dir("gguf")),
            added_at=now(),
        )
        known = next((one for one in versions.versions if one.number == version.number), None)
        if known is not None and known.run != version.run:
            raise ArtifactError(
                f"another run is already version {version.number}",
                where=run_directory.versions_path,
                expected=known.run,
                found=version.run,
                hint="update again, to another directory",
            )
        if known is not None and known.gguf_sha256 == version.gguf_sha256:
            version = known
        versions = versions.with_version(version)
        if reason is not None and versions.current != version:
            verified_run(version, run_directory)
            versions = versions.switched(version.number, reason)
        if versions != before:
            _write(versions, run_directory)
    return version


def serve_version(run_directory: RunDirectory, number: int, reason: str) -> Version:
    """Make a version the served one, after its files were verified hash by hash.

    Raises:
        ConfigError: There is no such version.
        ArtifactError: Its files are missing, damaged, or were made again since.
    """
    with run_directory.locked(LOCK, wait=True):
        versions = read_versions(run_directory)
        version = versions.of(number)
        verified_run(version, run_directory)
        if versions.current != version:
            _write(versions.switched(number, reason), run_directory)
    return version


def roll_back(run_directory: RunDirectory) -> Version:
    """Serve the version that the served one was trained from.

    Raises:
        ConfigError: The first version is served.
        ArtifactError: As for `serve_version`.
    """
    current = read_versions(run_directory).current
    if current.parent is None:
        raise ConfigError(
            "there is no version to go back to",
            where=run_directory.root,
            found=f"version {current.number} is served, the first",
        )
    return serve_version(run_directory, current.parent, "rolled back")


def run_of(version: Version, run_directory: RunDirectory) -> RunDirectory:
    """Return the run of a version."""
    if version.parent is None:
        return run_directory
    return RunDirectory(Path(os.path.normpath(run_directory.root.absolute() / version.run)))


def verified_run(version: Version, run_directory: RunDirectory) -> RunDirectory:
    """Return the run of a version with its files verified.

    Raises:
        ArtifactError: Files are missing, damaged, or were made again since it was listed.
    """
    own = run_of(version, run_directory)
    own.require("gguf")
    found = manifest_sha256(own.stage_dir("gguf"))
    # The first run's files may be made again: it is served as it is, with or without versions.
    if version.parent is not None and found != version.gguf_sha256:
        raise ArtifactError(
            f"the files of version {version.number} were made again after it was judged",
            where=own.stage_dir("gguf"),
            expected=f"a manifest with sha256 {version.gguf_sha256}",
            found=found,
            hint="potstill update judges them again; potstill update RUN --rollback serves the "
            "version before",
        )
    return own


def ancestry(run_directory: RunDirectory) -> tuple[VersionRow, ...]:
    """Return a run's student and those that it was trained from, the first one first.

    Raises:
        ArtifactError: The run has no files.
    """
    former = (run for run in ancestors(run_directory) if run.is_finished("gguf"))
    rows = [row_of(run_directory), *map(row_of, former)]
    return tuple(reversed(rows))


def ancestors(run_directory: RunDirectory) -> Iterator[RunDirectory]:
    """Yield the runs of the versions that a run's student was trained from, the last one first.

    A run that is not there any more ends the line.

    Raises:
        ArtifactError: The facts of an update cannot be read.
    """
    while run_directory.is_finished("update"):
        facts = run_directory.facts(UpdateFacts)
        path = os.path.normpath(run_directory.root.absolute() / facts.parent)
        run_directory = RunDirectory(Path(path))
        is_older = facts.parent_number < facts.number  # Or a damaged line might have no end.
        if not is_older or _number(run_directory) != facts.parent_number:
            return
        yield run_directory


def _number(run_directory: RunDirectory) -> int | None:
    """Return the version of a run; None where there is no run any more."""
    if run_directory.is_finished("update"):
        return run_directory.facts(UpdateFacts).number
    return 1 if run_directory.root.is_dir() else None


def row_of(run_directory: RunDirectory) -> VersionRow:
    """Return a version as tables show it.

    Raises:
        ArtifactError: The run has no files.
    """
    facts = run_directory.facts(UpdateFacts) if run_directory.is_finished("update") else None
    judged = run_directory.is_finished("comparison")
    manifest = read_manifest(run_directory.stage_dir("gguf"))
    return VersionRow(
        number=facts.number if facts else 1,
        run=run_directory.root.resolve().name,
        made_at=manifest.created_at.isoformat(timespec="seconds"),
        parent=facts.parent_number if facts else None,
        num_prompts=facts.num_prompts if facts else {},
        file=run_directory.facts(GgufFacts).recommended,
        outcome=run_directory.facts(ComparisonFacts).outcome if judged else None,
    )


def counts_in_words(num_prompts: Mapping[str, int]) -> str:
    """Return numbers of prompts by what they are: "12 rated, 3 failed"."""
    return ", ".join(f"{count:,} {kind}" for kind, count in num_prompts.items())


def relative(path: Path, start: Path) -> str:
    """Return a path as seen from a directory, so that both may be moved together."""
    return os.path.relpath(path.absolute(), start.absolute())


def now() -> str:
    """Return the time as versions store it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _own_version(run_directory: RunDirectory) -> Version:
    directory = run_directory.stage_dir("gguf")
    return Version(
        number=1,
        run=".",
        parent=None,
        gguf_sha256=run_directory.pinned("gguf"),
        added_at=read_manifest(directory).created_at.isoformat(timespec="seconds"),
    )


def _write(versions: Versions, run_directory: RunDirectory) -> None:
    path = run_directory.versions_path
    with disk_errors("writing the versions", path):
        write_text_atomically(path, versions.model_dump_json(indent=2) + "\n")
