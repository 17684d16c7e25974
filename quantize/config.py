"""Settings of the quantisation stage: which files to make, and how close they must be.

In: the [quantize] table. Out: a validated QuantizeConfig. Knows nothing of GGUF.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from potstill.config import Table

GgufType = Literal["F32", "F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M"]


class KlBounds(Table):
    """Largest mean KL(checkpoint‖file) per type, in nats per token, that a file may show.

    A wrong conversion (rotary halves swapped, a norm left out, another tokenizer) costs whole nats;
    rounding costs what the type's bits cost. The bounds lie between: four times or more what
    SmolLM2-135M-Instruct showed on 1,024 sampled completion tokens, because a model that small
    suffers more from rounding than larger ones, but a pruned one may suffer more still.
    """

    F32: float = Field(default=1e-5, gt=0)
    """SmolLM2 showed less than 1e-8: only the order of summation differs."""

    F16: float = Field(default=2e-4, gt=0)
    """SmolLM2 showed 0.000004; llama.cpp also rounds activations to 16 bits on CPUs."""

    Q8_0: float = Field(default=0.03, gt=0)
    """SmolLM2 showed 0.0051."""

    Q6_K: float = Field(default=0.06, gt=0)
    """SmolLM2 showed 0.013."""

    Q5_K_M: float = Field(default=0.4, gt=0)
    """SmolLM2 showed 0.10, more than for Q4_K_M: its embedded weights come from a 4-bit file."""

    Q4_K_M: float = Field(default=0.4, gt=0)
    """SmolLM2 showed 0.072."""

    def of(self, gguf_type: GgufType) -> float:
        """Return the bound of a type, in nats per token."""
        return float(getattr(self, gguf_type))


class QuantizeConfig(Table):
    """The [quantize] table."""

    types: tuple[GgufType, ...] = Field(default=("F16", "Q8_0", "Q4_K_M"), min_length=1)
    """Types of the student's files. The default spans exact, nearly exact and small."""

    teacher_types: tuple[GgufType, ...] = ("F16", "Q4_K_M")
    """Types of the teacher's files, made by the same code so that both models are compared alike.
    An empty list makes none."""

    recommended: GgufType | None = None
    """Type of the student's file that is served and named in the Modelfile. None takes the smallest
    file: each has passed its bound."""

    verification_tokens: int = Field(default=2048, ge=1)
    """Completion tokens of held-out conversations on which each file is compared with its
    checkpoint. 2048 bring the standard error of the mean KL to a few per cent of it; the
    checkpoint's log-probabilities take 4 bytes per token and vocabulary entry on disk meanwhile."""

    kl_bounds_nats: KlBounds = KlBounds()
    """Largest mean KL(checkpoint‖file) per type, in nats per token; a file beyond it is refused."""

    num_threads: int = Field(default=0, ge=0)
    """CPU threads for llama.cpp; 0 takes as many as this process may use."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for types in (self.types, self.teacher_types):
            if len(set(types)) != len(types):
                raise ValueError(f"each type once, found {', '.join(types)}")
        if self.recommended is not None and self.recommended not in self.types:
            raise ValueError(f"recommended must be one of types ({', '.join(self.types)})")
        return self
