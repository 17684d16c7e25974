"""What a run gives to its comparison: its files, their fidelity and their speed.

In: a run whose conversations, student and gguf stages are finished. Out: `RunFiles`, and figures by
file name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compare.answers.cache import JsonCache
from compare.config import CompareConfig
from compare.measurement.fidelity import measure_fidelity
from compare.measurement.heldout import read_held_out
from potstill.errors import ArtifactError, ManifestMismatchError
from potstill.facts.base import StageName
from potstill.facts.baseline import BaselineFacts
from potstill.facts.conversations import ConversationsFacts
from potstill.facts.gguf import GgufFacts, GgufFile
from potstill.facts.shared import Fidelity
from potstill.facts.student import StudentFacts
from potstill.files import sha256_bytes
from potstill.manifest import Manifest, read_manifest
from potstill.progress import track
from potstill.rundir import RunDirectory
from potstill.schema import Conversation

INPUTS: tuple[StageName, ...] = ("conversations", "student", "gguf")


@dataclass(frozen=True)
class RunFiles:
    """A run's finished stages, as far as its comparison reads them."""

    manifests: dict[StageName, Manifest]
    conversations: ConversationsFacts
    student: StudentFacts
    gguf: GgufFacts
    conversations_dir: Path
    student_dir: Path
    gguf_dir: Path
    held_out: list[Conversation]
    """The conversations that fidelity is measured on."""
    baseline: tuple[Path, str] | None = None
    """The file, with its hash, of the same student trained on known answers alone; None: none."""

    @property
    def reference(self) -> GgufFile:
        """The teacher's largest file, which is nearest to the checkpoint: ratios refer to it.

        The student's, where the teacher gave text alone.
        """
        return max(self.gguf.teacher_files or self.gguf.files, key=lambda file: file.bytes)

    @property
    def start_name(self) -> str | None:
        """The checkpoint or file that the student started from; None: the teacher."""
        student = self.manifests["student"].config.get("student") or {}
        name = student.get("checkpoint")
        return None if name is None else str(name)

    def path(self, file: GgufFile) -> Path:
        """Return where a file is."""
        return self.gguf_dir / file.file

    def adapter_path(self, file: GgufFile) -> Path | None:
        """Return where the adapter of a file is; None for one that is the model by itself."""
        return None if file.adapter is None else self.gguf_dir / file.adapter

    def path_of(self, name: str) -> Path:
        """Return where the file with a name is."""
        return self.path(next(file for file in self.gguf.files if file.name == name))

    def sha256(self, file: GgufFile) -> str:
        """Return the hash of a file's bytes, and of its adapter's."""
        known = {output.path: output.sha256 for output in self.manifests["gguf"].outputs}
        if file.adapter is None:
            return known[file.file]
        return sha256_bytes((known[file.file] + known[file.adapter]).encode())


def require_teacher(config: CompareConfig, run_directory: RunDirectory) -> None:
    """Check that there is a teacher to compare with, where the run's gave text alone.

    Raises:
        ArtifactError: No server is named for it.
    """
    if run_directory.is_finished("conversations"):
        teacher = run_directory.facts(ConversationsFacts).teacher
        if teacher.text_only:
            config.require_teacher(teacher.model)


def read_run(run_directory: RunDirectory, max_conversations: int) -> RunFiles:
    """Read a run whose stages were verified when the session was opened.

    Raises:
        ArtifactError: There is no teacher file to compare with, or no held-out conversation.
        ManifestMismatchError: The stages have different tokenizers or chat templates.
    """
    manifests = {name: read_manifest(run_directory.stage_dir(name)) for name in INPUTS}
    conversations_dir = run_directory.stage_dir("conversations")
    run = RunFiles(
        manifests=manifests,
        conversations=run_directory.facts(ConversationsFacts),
        student=run_directory.facts(StudentFacts),
        gguf=run_directory.facts(GgufFacts),
        conversations_dir=conversations_dir,
        student_dir=run_directory.stage_dir("student"),
        gguf_dir=run_directory.stage_dir("gguf"),
        held_out=read_held_out(conversations_dir, max_conversations),
        baseline=_baseline(run_directory),
    )
    _require_comparable(run, run_directory)
    return run


def file_fidelity(run: RunFiles, cache: JsonCache, num_threads: int | None) -> dict[str, Fidelity]:
    """Measure every file whose distributions the stored ones can be compared with.

    These are files with the teacher's tokens and, where conversations stand under the student's own
    prompt, only the student's. Stored figures are not measured again.
    """
    files = [file for file in run.gguf.files if _is_comparable(run, file)]
    drawn = run.conversations.tokens_are_draws
    measured, num_held_out = {}, len(run.held_out)
    with track("measuring fidelity", len(files) * num_held_out, "conversations") as progress:
        for file in files:
            name = f"fidelity-{file.name}"
            stored = cache.get(name)
            if stored is None:
                found = measure_fidelity(
                    run.path(file),
                    run.held_out,
                    num_threads,
                    progress.advance,
                    drawn=drawn,
                    adapter_path=run.adapter_path(file),
                )
                stored = found.model_dump()
                cache.put(name, stored)
            else:
                progress.advance(num_held_out)
            measured[file.name] = Fidelity(**stored)
    return measured


def _baseline(run_directory: RunDirectory) -> tuple[Path, str] | None:
    if not run_directory.is_finished("baseline"):
        return None
    directory = run_directory.stage_dir("baseline")
    name = run_directory.facts(BaselineFacts).file.file
    outputs = read_manifest(directory).outputs
    return directory / name, next(one.sha256 for one in outputs if one.path == name)


def _is_comparable(run: RunFiles, file: GgufFile) -> bool:
    if file.role == "student":
        return not run.student.own_tokenizer
    return not run.conversations.stands_under_other_prompt


def sft_student(sft_run: Path, run: RunFiles) -> StudentFacts:
    """Return the facts of another run's student, trained on the same conversations.

    Raises:
        ArtifactError: The other run has no finished student.
        ManifestMismatchError: It was trained on other conversations.
    """
    other_run = RunDirectory(sft_run)
    other = other_run.require("student")
    used = {one.path: one.manifest_sha256 for one in other.inputs}
    own = {one.path: one.manifest_sha256 for one in run.manifests["student"].inputs}
    if used.get("conversations") != own.get("conversations"):
        raise ManifestMismatchError(
            "the other run's student was trained on other conversations",
            where=sft_run,
            expected=f"conversations with manifest {own.get('conversations')}",
            found=used.get("conversations"),
            hint="copy this run's conversations into a run of its own, and train there",
        )
    return other_run.facts(StudentFacts)


def _require_comparable(run: RunFiles, run_directory: RunDirectory) -> None:
    # A student may have other tokens than the teacher, but then its files have the student's.
    model = run.student if run.student.own_tokenizer else run.conversations
    for made in (run.student, run.gguf):
        for fact in ("tokenizer_sha256", "chat_template_sha256"):
            expected, found = getattr(model, fact), getattr(made, fact)
            if found != expected:
                raise ManifestMismatchError(
                    f"the {made.stage} stage was made with another tokenizer or chat template",
                    where=run_directory.stage_dir(made.stage),
                    expected=f"{fact} {expected}",
                    found=found,
                    hint=f"make the {made.stage} stage again with --force",
                )
    if not (run.gguf.teacher_files or run.conversations.teacher.text_only):
        raise ArtifactError(
            "there is no GGUF file of the teacher to compare with",
            where=run_directory.stage_dir("gguf"),
            expected="at least one file with role teacher",
            found="files of the student only",
            hint="let the quantize stage make one of the teacher too, with --force",
        )
