"""The [quantize] table: which files to make, and how close to the checkpoint they must be."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from potstill.config import Table
from quantize.quantization.file_types import FILE_TYPES, FileTypeName, uses_imatrix

FASTEST = "fastest"
"""In place of the recommended file's type: chosen by measured speed."""
TEACHER_TYPES: tuple[FileTypeName, ...] = ("F16", "Q4_K_M")
PositiveFloat = Annotated[float, Field(gt=0)]


def _as_sequence(value: Any) -> Any:  # noqa: ANN401  (what the user wrote)
    """Accept one number for a list of one."""
    return (value,) if isinstance(value, int | float) else value


class QuantizeConfig(Table):
    """The [quantize] table."""

    types: tuple[FileTypeName, ...] = Field(default=("F16", "Q8_0", "Q4_K_M"), min_length=1)
    """Types of the student's files. The default covers exact, nearly exact and small. The type the
    student was trained for (`train.quantization_aware`), if any, is added."""

    teacher_types: tuple[FileTypeName, ...] | None = None
    """Types of the teacher's files, made by the same code so that both models are compared in the
    same way. None: a teacher that came as a GGUF file is compared as that file, and others get F16
    and Q4_K_M. An empty list makes none."""

    target_megabytes: Annotated[tuple[PositiveFloat, ...], BeforeValidator(_as_sequence)] = ()
    """Sizes, in millions of bytes, of further files of the student. Tensor types of such a file are
    chosen for the lowest measured KL at that size. None by default: every tensor is measured, which
    takes minutes on a CPU."""

    imatrix: Literal["auto", "always", "never"] = "auto"
    """Whether quantization weights errors by an importance matrix, computed on the student's own
    training conversations. `auto`: for types under 6.5 bits; it does not improve finer ones."""

    imatrix_tokens: int = Field(default=32768, ge=1)
    """Tokens of training conversations from which the importance matrix is computed."""

    mix_tokens: int = Field(default=1024, ge=1)
    """Tokens of training conversations on which each tensor's KL is measured for
    `target_megabytes`. The files are verified on others."""

    recommended: str | None = None
    """The student's file that is served and named in the Modelfile: one of its types, or a size as
    in the file's name, such as "60MB", or `fastest`: the smallest of those that decode 16 sequences
    side by side at most 10% slower than the fastest one, on this machine. None selects the
    smallest file: all pass their bounds."""

    verification_tokens: int = Field(default=2048, ge=1)
    """Completion tokens of held-out conversations on which each file is compared with its
    checkpoint. At 2048 the standard error of the mean KL is a few per cent of it; the checkpoint's
    log-probabilities temporarily take 4 bytes per token and vocabulary entry on disk."""

    kl_bounds_nats: dict[FileTypeName, PositiveFloat] = Field(default_factory=dict)
    """Largest mean KL(checkpoint‖file) of a type's files, in nats per token; a file beyond it is
    refused. Defaults for types that are not named are in `quantization/file_types.py`."""

    num_threads: int = Field(default=0, ge=0)
    """CPU threads for llama.cpp; 0 means as many as this process may use."""

    def kl_bound_nats(self, name: FileTypeName) -> float:
        """Return the bound of a type, in nats per token."""
        return self.kl_bounds_nats.get(name, FILE_TYPES[name].kl_bound_nats)

    def student_types(self, aware_type: FileTypeName | None) -> tuple[FileTypeName, ...]:
        """Return the types of the student's files, including the one it was trained for."""
        extra = () if aware_type is None or aware_type in self.types else (aware_type,)
        return (*self.types, *extra)

    @property
    def mixes(self) -> dict[str, float]:
        """The sizes in bytes, by their names."""
        return {f"{size:g}MB": size * 1e6 for size in self.target_megabytes}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        teacher_types = self.teacher_types or ()
        for chosen in (self.types, teacher_types, self.target_megabytes):
            if len(set(chosen)) != len(chosen):
                raise ValueError(f"each once, found {', '.join(map(str, chosen))}")
        names = (*self.types, *self.mixes)
        allowed = (FASTEST, *names)
        if self.recommended is not None and self.recommended not in allowed:
            raise ValueError(f"recommended must be one of {', '.join(allowed)}")
        for name in (*self.types, *teacher_types):
            if FILE_TYPES[name].requires_imatrix and not uses_imatrix(name, self.imatrix):
                raise ValueError(
                    f'{name} cannot be made without an importance matrix: imatrix="auto"'
                )
        return self
