"""What a run gives to its comparison: its files, their fidelity and their speed.

In: a run whose conversations, student and gguf stages are finished. Out: `RunFiles`, and figures by
file name. Knows nothing of judges or verdicts.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compare.answers.cache import JsonCache
from compare.measurement.fidelity import measure_fidelity
from compare.measurement.heldout import read_held_out
from potstill.errors import ArtifactError, ManifestMismatchError
from potstill.fidelity import Fidelity, tokens_are_draws
from potstill.manifest import Manifest, read_manifest
from potstill.progress import track
from potstill.rundir import RunDirectory, StageName
from potstill.schema import Conversation

INPUTS: tuple[StageName, ...] = ("conversations", "student", "gguf")


@dataclass(frozen=True)
class RunFiles:
    """A run's finished stages, as far as its comparison reads them."""

    manifests: dict[StageName, Manifest]
    conversations_dir: Path
    student_dir: Path
    gguf_dir: Path
    held_out: list[Conversation]
    """The conversations that fidelity is measured on."""

    @property
    def files(self) -> list[dict[str, Any]]:
        """The GGUF files as the gguf stage describes them."""
        files: list[dict[str, Any]] = self.manifests["gguf"].facts["files"]
        return files

    @property
    def reference(self) -> dict[str, Any]:
        """The teacher's largest file, which is nearest to the checkpoint: ratios refer to it."""
        teachers = [file for file in self.files if file["role"] == "teacher"]
        return max(teachers, key=lambda file: int(file["bytes"]))

    @property
    def recommended(self) -> dict[str, Any]:
        """The student's file that the gguf stage recommends."""
        name = self.manifests["gguf"].facts["recommended"]
        return next(file for file in self.files if file["name"] == name)

    @property
    def has_own_tokenizer(self) -> bool:
        """Whether the student has other tokens than the teacher."""
        return bool(self.manifests["student"].facts.get("own_tokenizer"))

    def path(self, file: dict[str, Any]) -> Path:
        """Return where a file lies."""
        return self.gguf_dir / str(file["file"])

    def sha256(self, file: dict[str, Any]) -> str:
        """Return the hash of a file's bytes."""
        outputs = self.manifests["gguf"].outputs
        return next(output.sha256 for output in outputs if output.path == file["file"])


def read_run(run_directory: RunDirectory, max_conversations: int) -> RunFiles:
    """Read what is there; the stages were verified when the session was opened.

    Raises:
        ArtifactError: There is no teacher file to compare with, or no held-out conversation.
        ManifestMismatchError: The stages have different tokenizers or chat templates.
    """
    manifests = {name: read_manifest(run_directory.stage_dir(name)) for name in INPUTS}
    conversations_dir = run_directory.stage_dir("conversations")
    run = RunFiles(
        manifests=manifests,
        conversations_dir=conversations_dir,
        student_dir=run_directory.stage_dir("student"),
        gguf_dir=run_directory.stage_dir("gguf"),
        held_out=read_held_out(conversations_dir, max_conversations),
    )
    _require_comparable(run, run_directory)
    return run


def file_fidelity(run: RunFiles, cache: JsonCache, num_threads: int | None) -> dict[str, Fidelity]:
    """Measure every file that has the teacher's tokens; stored figures are not measured again."""
    files = [one for one in run.files if one["role"] == "teacher" or not run.has_own_tokenizer]
    drawn = tokens_are_draws(run.manifests["conversations"].facts)
    measured, num_held_out = {}, len(run.held_out)
    with track("measuring fidelity", len(files) * num_held_out, "conversations") as progress:
        for file in files:
            name = f"fidelity-{file['name']}"
            stored = cache.get(name)
            if stored is None:
                found = measure_fidelity(
                    run.path(file), run.held_out, num_threads, progress.advance, drawn=drawn
                )
                stored = asdict(found)
                cache.put(name, stored)
            else:
                progress.advance(num_held_out)
            measured[str(file["name"])] = Fidelity(**stored)
    return measured


def sft_evaluation(sft_run: Path, run: RunFiles) -> dict[str, Any]:
    """Return how near another run's student, of the same conversations, is to the teacher.

    Raises:
        ArtifactError: The other run has no finished student.
        ManifestMismatchError: It was trained on other conversations.
    """
    other = RunDirectory(sft_run).require("student")
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
    return {"num_parameters": other.facts["num_parameters"], **other.facts["evaluation"]["trained"]}


def _require_comparable(run: RunFiles, run_directory: RunDirectory) -> None:
    # A student may have other tokens than the teacher, but then its files have the student's.
    model: StageName = "student" if run.has_own_tokenizer else "conversations"
    stages: tuple[StageName, ...] = ("student", "gguf")
    for stage in stages:
        for fact in ("tokenizer_sha256", "chat_template_sha256"):
            expected = run.manifests[model].facts[fact]
            found = run.manifests[stage].facts[fact]
            if found != expected:
                raise ManifestMismatchError(
                    f"the {stage} stage was made with another tokenizer or chat template",
                    where=run_directory.stage_dir(stage),
                    expected=f"{fact} {expected}",
                    found=found,
                    hint=f"make the {stage} stage again with --force",
                )
    if not any(file["role"] == "teacher" for file in run.files):
        raise ArtifactError(
            "there is no GGUF file of the teacher to compare with",
            where=run_directory.stage_dir("gguf"),
            expected="at least one file with role teacher",
            found="files of the student only",
            hint="let the quantize stage make one of the teacher too, with --force",
        )
