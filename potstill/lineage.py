"""Where a GGUF file comes from: prompts, teacher, student, code and verdict, inside the file.

In: a run, or a file that carries `LINEAGE_KEY` in its metadata. Out: a `Lineage`. `quantize` writes
it into a student's files before there is a verdict; `export` and `push` add the verdict to their
copies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from potstill.errors import ArtifactError, ManifestMismatchError, first_line
from potstill.facts.base import Record, StageName
from potstill.facts.comparison import ComparisonFacts
from potstill.facts.conversations import ConversationsFacts
from potstill.facts.student import StudentFacts
from potstill.licenses import UNKNOWN, teacher_license
from potstill.manifest import Code, manifest_sha256, read_manifest
from potstill.models.header import GgufHeader
from potstill.rundir import RunDirectory
from potstill.tables import count_sources
from potstill.versions import ancestors

LINEAGE_NAME = "lineage.json"
"""File of a lineage beside a student's."""
LINEAGE_KEY = "potstill.lineage"
"""Key of the lineage in a GGUF file's metadata, as JSON text."""
MOST_BYTES = 1 << 20
"""Of a lineage: a stranger's file may hold more."""
MOST_SOURCES = 200
PARENTS: tuple[StageName, ...] = (
    "update",
    "task",
    "prompts",
    "samples",
    "conversations",
    "student",
)
"""Stages that a student's file is made of."""


class Stage(Record):
    """A stage that the file descends from."""

    name: StageName
    created_at: str
    manifest_sha256: str
    code: Code


class Teacher(Record):
    """A model that answered."""

    model: str
    fingerprint: str
    """Of its weights and settings."""
    license: str
    gguf_sha256: str | None = None


class Source(Record):
    """Prompts of one source with one license."""

    name: str
    license: str
    num_conversations: int


class Verdict(Record):
    """What the run's comparison decided of one file."""

    outcome: Literal["PASS", "FAIL", "INCONCLUSIVE", "INVALID_JUDGE"]
    file: str
    """Name of the file that was judged, such as student-Q4_K_M."""
    manifest_sha256: str
    """Of the comparison."""


class Lineage(Record):
    """The way back from a student's file to its prompts."""

    schema_version: int = 1
    run: str
    """Name of the run's directory."""
    method: str
    """How the student was made, as in `train.student`."""
    teachers: tuple[Teacher, ...]
    sources: tuple[Source, ...]
    stages: tuple[Stage, ...]
    verdict: Verdict | None = None
    """None: the file was written before there was one."""

    def texts(self) -> dict[str, str]:
        """Return the lineage as texts for a file's metadata."""
        return {LINEAGE_KEY: self.model_dump_json()}

    @property
    def document(self) -> str:
        """The lineage as a JSON document."""
        return self.model_dump_json(indent=2, ensure_ascii=True) + "\n"

    def lines(self) -> list[str]:
        """Return the lineage in words, from the file back to its prompts."""
        judged = f"{self.verdict.outcome} for {self.verdict.file}" if self.verdict else "none yet"
        lines = [f"run: {self.run}", f"verdict: {judged}", f"student: {self.method}"]
        for teacher in self.teachers:
            lines.append(f"teacher: {teacher.model}; license: {teacher.license}")
            lines.append(f"  fingerprint {teacher.fingerprint}")
            if teacher.gguf_sha256:
                lines.append(f"  GGUF file with sha256 {teacher.gguf_sha256}")
        for source in self.sources:
            count = f"{source.num_conversations:,} conversations"
            lines.append(f"prompts: {source.name}, {count}; license: {source.license}")
        for stage in reversed(self.stages):
            code = stage.code
            commit = f", commit {code.git_commit[:12]}" if code.git_commit else ""
            changed = ", with changes" if code.dirty else ""
            lines.append(
                f"stage {stage.name}: {stage.created_at}, potstill {code.version}{commit}{changed}"
            )
            lines.append(f"  manifest sha256 {stage.manifest_sha256}")
        return lines


def lineage_of_run(run_directory: RunDirectory, *, judged: bool = True) -> Lineage:
    """Return the lineage of a run's student.

    Args:
        judged: Whether to add the verdict on the run's files, if there is one.

    Raises:
        ArtifactError: The run has no student, or is damaged.
        ManifestMismatchError: A stage was made again since the next one was made of it.
    """
    _require_chain(run_directory, (*PARENTS, "gguf") if judged else PARENTS)
    student = run_directory.facts(StudentFacts)
    conversations = run_directory.facts(ConversationsFacts)
    identities = [student.teacher, *(t.identity for t in conversations.further_teachers.values())]
    return Lineage(
        run=run_directory.root.resolve().name,
        method=student.method,
        teachers=tuple(
            Teacher(
                model=one.model,
                fingerprint=one.fingerprint,
                license=UNKNOWN if one.text_only else teacher_license(Path(one.path)),
                gguf_sha256=one.gguf_sha256,
            )
            for one in identities
        ),
        sources=_sources([run_directory, *ancestors(run_directory)]),
        stages=tuple(
            _stage(name, run_directory) for name in PARENTS if run_directory.is_finished(name)
        ),
        verdict=_verdict(run_directory) if judged else None,
    )


def read_lineage(path: Path) -> Lineage:
    """Return what a GGUF file carries.

    Raises:
        ArtifactError: It is not a GGUF file, or has no lineage that can be read.
    """
    text = GgufHeader.read(path).metadata.get(LINEAGE_KEY)
    if text is None:
        raise ArtifactError(
            "the file has no lineage",
            where=path,
            expected=f"{LINEAGE_KEY} in its metadata",
            hint="only a student's files have one; name the run instead if you have it",
        )
    try:
        if not isinstance(text, str) or len(text) > MOST_BYTES:
            raise ValueError(f"not a text of at most {MOST_BYTES} bytes")
        return Lineage.model_validate_json(text)
    except (ValueError, ValidationError) as error:
        raise ArtifactError(
            "the lineage cannot be read",
            where=path,
            found=first_line(error),
            hint="a later potstill may have written it",
        ) from error


def _require_chain(run_directory: RunDirectory, stages: Sequence[StageName]) -> None:
    """Check that each stage was made of the stages that are there now."""
    finished: list[str] = [name for name in stages if run_directory.is_finished(name)]
    pinned = {name: manifest_sha256(run_directory.root / name) for name in finished}
    for name in finished:
        for one in read_manifest(run_directory.root / name).inputs:
            if pinned.get(one.path, one.manifest_sha256) != one.manifest_sha256:
                raise ManifestMismatchError(
                    f"the {name} stage was made before the {one.path} stage was made again",
                    where=run_directory.root / name,
                    expected=f"{one.path} with manifest {one.manifest_sha256}",
                    found=pinned[one.path],
                    hint=f"make it again: potstill run {run_directory.root}",
                )


def _stage(name: StageName, run_directory: RunDirectory) -> Stage:
    directory = run_directory.stage_dir(name)
    manifest = read_manifest(directory)
    return Stage(
        name=name,
        created_at=manifest.created_at.isoformat(timespec="seconds"),
        manifest_sha256=manifest_sha256(directory),
        code=manifest.code,
    )


def _sources(learned: Sequence[RunDirectory]) -> tuple[Source, ...]:
    """Return the sources of what a student has learned, and of what its former versions have."""
    counts: Counter[tuple[str, str | None]] = Counter()
    for run_directory in learned:
        counts += count_sources(run_directory.stage_dir("conversations"))
    return tuple(
        Source(name=name, license=license or UNKNOWN, num_conversations=count)
        for (name, license), count in counts.most_common(MOST_SOURCES)
    )


def _verdict(run_directory: RunDirectory) -> Verdict | None:
    if not (run_directory.is_finished("comparison") and run_directory.is_finished("gguf")):
        return None
    files = manifest_sha256(run_directory.stage_dir("gguf"))
    directory = run_directory.stage_dir("comparison")
    if all(one.manifest_sha256 != files for one in read_manifest(directory).inputs):
        return None  # It judged files that have been made anew since.
    facts = run_directory.facts(ComparisonFacts)
    return Verdict(
        outcome=facts.outcome,
        file=facts.recommended,
        manifest_sha256=manifest_sha256(directory),
    )
