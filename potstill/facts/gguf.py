"""Facts of the stage `gguf`."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from potstill.facts.base import Facts, InsidePath, Record, StageName
from potstill.facts.shared import Role


class FileMeasurement(Record):
    """What was measured on one verified file, over held-out tokens and the whole vocabulary."""

    num_parameters: int
    bits_per_weight: float
    """Of all tensors together; the tokenizer does not count."""
    kl_to_checkpoint_nats: float
    """Mean KL(checkpoint‖file) per token."""
    kl_standard_error_nats: float
    """Of the mean; conversations, not tokens, are taken as independent."""
    kl_median_nats: float
    kl_p99_nats: float
    kl_p999_nats: float
    kl_max_nats: float
    top1_agreement_with_checkpoint: float
    """Share of tokens where the most probable one of both is the same."""
    mean_delta_p: float
    """Mean of the file's minus the checkpoint's probability of the actual next token."""
    rms_delta_p: float
    """Root mean square of the same difference."""
    perplexity: float
    """exp of the mean negative log-probability of the actual next tokens."""
    perplexity_ratio: float
    """The file's perplexity over the checkpoint's."""
    prompt_tokens_per_second: float
    decode_tokens_per_second: float
    batch_decode_tokens_per_second: float | None = None
    """Of 16 sequences decoded side by side; None: an earlier version made the file."""
    peak_memory_bytes: int
    """Of a process that only loads the file, reads a prompt and decodes."""


class FileMix(Record):
    """The types that were chosen for a file of a given size."""

    target_bytes: int
    predicted_kl_nats: float
    types: dict[str, dict[str, int]]
    """Tensors by group and type."""


class FileTensors(Record):
    """The types of a file's tensors."""

    tensor_types: dict[str, int]
    """Tensors by ggml's name of their type."""
    fallbacks: dict[str, int]
    """Matrices that could not have the file's type, by the type they have instead."""
    imatrix: bool | None = None
    """Whether an importance matrix was used; None for files that are not quantized."""
    mix: FileMix | None = None
    """None for files of one type."""


class GgufFile(FileTensors, FileMeasurement):
    """One GGUF file."""

    name: str
    file: InsidePath
    """Its path in the stage's directory."""
    adapter: InsidePath | None = None
    """Likewise, the adapter that makes the student of the file, which is then its base."""
    role: Role
    type: str
    """File type, or the size of a mix."""
    bytes: int
    """With the adapter's."""
    kl_bound_nats: float
    """Largest mean KL with which the file is accepted."""
    is_original: bool = False
    """Whether it is the file that the teacher came in, taken as it is."""
    on_pareto_front: bool
    """Whether no other file of the same model is both smaller and closer to its checkpoint."""


class GgufFacts(Facts):
    """The verified files."""

    stage: ClassVar[StageName] = "gguf"

    files: tuple[GgufFile, ...] = Field(min_length=1)
    recommended: str
    """Name of the student's file that is served by default."""
    tokenizer_sha256: str
    """The student's, as is the template's."""
    chat_template_sha256: str

    @property
    def recommended_file(self) -> GgufFile:
        """The student's file that is served by default."""
        return next(file for file in self.files if file.name == self.recommended)

    @property
    def teacher_files(self) -> tuple[GgufFile, ...]:
        """The teacher's files."""
        return tuple(file for file in self.files if file.role == "teacher")
