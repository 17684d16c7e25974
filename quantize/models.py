"""The models of a run that become GGUF files, with the references of their verification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

from potstill.checkpoints import ModelShape, find_checkpoint, refuse_other_checkpoint
from potstill.facts.student import KeptAdapter, StudentFacts
from potstill.lineage import lineage_of_run
from potstill.models.dequantized import read_source
from potstill.models.files import GgufSource
from potstill.models.header import GgufHeader
from potstill.rundir import RunDirectory
from quantize.config import TEACHER_TYPES, QuantizeConfig
from quantize.conversion.base import link_base
from quantize.conversion.checkpoint import Checkpoint
from quantize.loading import load_tokenizer
from quantize.quantization.calibration import Calibration, read_calibration
from quantize.quantization.file_types import FileTypeName
from quantize.verification.expected import Expected, read_expected
from quantize.verification.reference import HeldOut, read_held_out, write_reference_logprobs

BASE_TITLE = "base"
"""Start of the names of files that are the student only together with its adapter."""
ORIGINAL_TOKENS = 256
"""Most tokens of held-out conversations on which a teacher's own GGUF file is compared with the
checkpoint that was made of it: both were compared when it was made."""


@dataclass(frozen=True)
class SourceAdapter:
    """An adapter that is exported beside its base.

    Attributes:
        dir: The adapter, as PEFT saves it.
        base_dir: Its base's weights, with the tokenizer of the model that both are together.
        base_name: The base's name in files' metadata.
    """

    dir: Path
    base_dir: Path
    base_name: str


@dataclass(frozen=True)
class SourceModel:
    """A checkpoint and the files to make of it.

    Attributes:
        title: What the names of its files begin with.
        mixes: Sizes in bytes of further files, by name.
        aware_type: The type the model was trained for, if any.
        has_own_tokenizer: Whether its tokens differ from those of the conversations.
        conversations_dir: What importance matrices are computed on; None where none is needed.
        scratch_dir: Directory of temporary files.
        original: The GGUF file that the model came in, if it is its only file.
        adapter: What the files are made of instead of the checkpoint, which is then the merged
            model and what they are compared with.
        lineage: Texts for the metadata of the student's files, or of its adapter; empty for others.
    """

    title: str
    role: Literal["student", "teacher"]
    checkpoint_dir: Path
    types: tuple[FileTypeName, ...]
    mixes: dict[str, float]
    aware_type: FileTypeName | None
    has_own_tokenizer: bool
    held_out: HeldOut
    conversations_dir: Path | None
    scratch_dir: Path
    original: GgufSource | None = None
    adapter: SourceAdapter | None = None
    lineage: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The model's name in the files' metadata: one base's files are the same in every run."""
        if self.adapter is not None:
            return self.adapter.base_name
        return f"{self.title} {self.checkpoint_dir.name}"

    @property
    def converted_dir(self) -> Path:
        """The checkpoint that the files are made of."""
        return self.checkpoint_dir if self.adapter is None else self.adapter.base_dir

    @property
    def file_names(self) -> tuple[str, ...]:
        """The last parts of its files' names."""
        if self.original is not None:
            return (GgufHeader.read(self.original.path).file_type,)
        return (*self.types, *self.mixes)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint, of an architecture that becomes GGUF."""
        return Checkpoint(self.converted_dir)

    @cached_property
    def tokenizer(self) -> Any:  # noqa: ANN401  (a transformers tokenizer)
        """The checkpoint's tokenizer."""
        return load_tokenizer(self.checkpoint_dir)

    @cached_property
    def expected(self) -> Expected:
        """The expected results of the files' tokenizers."""
        shape = ModelShape.read(self.checkpoint_dir, with_weights=False)
        return read_expected(
            self.tokenizer, self.checkpoint_dir, shape.vocab_size, self.held_out.chats
        )

    @cached_property
    def logprobs_path(self) -> Path:
        """The checkpoint's log-probabilities, computed once for all types."""
        path = self.scratch_dir / f"{self.title}-logprobs.npy"
        if not path.is_file():
            write_reference_logprobs(
                self.checkpoint_dir,
                self.held_out,
                path,
                label=self.title if self.adapter is None else self.role,
                stops=self.expected.special.eog,
            )
        return path

    def calibration(self, max_tokens: int, skip_tokens: int = 0) -> Calibration:
        """Read training conversations in the model's tokens, see `read_calibration`."""
        if self.conversations_dir is None:
            raise ValueError("a model without conversations")
        return read_calibration(
            self.conversations_dir,
            max_tokens,
            self.checkpoint.config.max_position_embeddings,
            skip_tokens=skip_tokens,
            tokenizer=self.tokenizer if self.has_own_tokenizer else None,
        )


def source_models(
    config: QuantizeConfig,
    run_directory: RunDirectory,
    student: StudentFacts,
    scratch_dir: Path,
) -> list[SourceModel]:
    """Return the student, and the teacher if files of it are wanted.

    Raises:
        ConversionError: A model's architecture cannot become GGUF.
        ManifestMismatchError: The teacher is not that of the conversations.
        ArtifactError: A checkpoint is missing or damaged.
    """
    conversations_dir = run_directory.stage_dir("conversations")
    student_dir = run_directory.stage_dir("student")
    own_tokenizer = student.own_tokenizer
    held_out = student_held_out = read_held_out(conversations_dir, config.verification_tokens)
    if own_tokenizer:
        student_held_out = read_held_out(
            conversations_dir, config.verification_tokens, load_tokenizer(student_dir)
        )
    adapter = None
    if student.adapter is not None:
        adapter = _source_adapter(student.adapter, student_dir, scratch_dir)
    aware = student.quantization_aware
    aware_type = None if aware is None else cast(FileTypeName, aware.type)
    models = [
        SourceModel(
            title="student" if adapter is None else BASE_TITLE,
            role="student",
            checkpoint_dir=student_dir,
            types=config.student_types(aware_type),
            mixes=config.mixes,
            aware_type=aware_type,
            has_own_tokenizer=own_tokenizer,
            held_out=student_held_out,
            conversations_dir=conversations_dir,
            scratch_dir=scratch_dir,
            adapter=adapter,
            lineage=lineage_of_run(run_directory, judged=False).texts(),
        )
    ]
    if config.teacher_types != () and not student.teacher.text_only:
        teacher_dir = find_checkpoint(student.teacher.path)
        refuse_other_checkpoint(teacher_dir, student.teacher.fingerprint)
        original = read_source(teacher_dir) if config.teacher_types is None else None
        if original is not None:
            num_tokens = min(config.verification_tokens, ORIGINAL_TOKENS)
            held_out = read_held_out(conversations_dir, num_tokens)
        models.append(
            SourceModel(
                title="teacher",
                role="teacher",
                checkpoint_dir=teacher_dir,
                types=config.teacher_types or TEACHER_TYPES,
                mixes={},
                aware_type=None,
                has_own_tokenizer=False,
                held_out=held_out,
                conversations_dir=conversations_dir,
                scratch_dir=scratch_dir,
                original=original,
            )
        )
    for model in models:
        if model.original is None:
            _ = model.checkpoint
    return models


def _source_adapter(kept: KeptAdapter, student_dir: Path, scratch_dir: Path) -> SourceAdapter:
    base_dir = find_checkpoint(kept.base_path)
    refuse_other_checkpoint(base_dir, kept.base_fingerprint, "the adapter's base")
    linked_dir = scratch_dir / BASE_TITLE
    link_base(base_dir, student_dir, linked_dir)
    return SourceAdapter(
        dir=student_dir / KeptAdapter.DIRECTORY,
        base_dir=linked_dir,
        base_name=f"{BASE_TITLE} {base_dir.name}",
    )
