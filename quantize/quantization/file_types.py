"""The file types that llama.cpp makes: one row each, with the bound on the KL to the checkpoint.

The configuration imports this module, so it must not import heavy libraries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FileTypeName = Literal[
    "F32",
    "F16",
    "BF16",
    "Q8_0",
    "Q6_K",
    "Q5_K_M",
    "Q5_K_S",
    "Q5_1",
    "Q5_0",
    "Q4_K_M",
    "Q4_K_S",
    "Q4_1",
    "Q4_0",
    "IQ4_NL",
    "IQ4_XS",
    "MXFP4_MOE",
    "Q3_K_L",
    "Q3_K_M",
    "Q3_K_S",
    "IQ3_M",
    "IQ3_S",
    "IQ3_XS",
    "IQ3_XXS",
    "Q2_K",
    "Q2_K_S",
    "IQ2_M",
    "IQ2_S",
    "IQ2_XS",
    "IQ2_XXS",
    "TQ2_0",
    "TQ1_0",
    "IQ1_M",
    "IQ1_S",
    "Q1_0",
]
"""The names that llama.cpp's own tool accepts (llama.cpp 0c1e57098, tools/quantize/quantize.cpp),
except NVFP4, which llama_model_quantize does not make, and Q2_0, which the gguf package (0.19)
cannot read."""

BASES = ("F32", "F16", "BF16")
"""Types that the conversion itself writes, without quantization."""

IMATRIX_BELOW_BITS = 6.5
"""Types of fewer nominal bits use an importance matrix by default: all up to Q5_1. On
SmolLM2-135M-Instruct it reduced their KL by 28 to 62% and that of Q8_0 not at all, and raised the
highest KL of Q6_K's tokens."""


@dataclass(frozen=True)
class FileType:
    """One file type.

    Attributes:
        ftype: llama.cpp's number of it, `llama_ftype` in llama.h.
        tensor_type: ggml's name of the type that most of its tensors get.
        bits: Bits per weight of that type; the file's are higher, see `describe_tensors`.
        kl_bound_nats: Largest mean KL(checkpoint‖file) that a file may show by default.
        requires_imatrix: Whether llama.cpp refuses to make it without an importance matrix.
    """

    ftype: int
    tensor_type: str
    bits: float
    kl_bound_nats: float
    requires_imatrix: bool = False


FILE_TYPES: dict[FileTypeName, FileType] = {
    "F32": FileType(0, "F32", 32.0, 1e-5),
    "F16": FileType(1, "F16", 16.0, 2e-4),
    "BF16": FileType(32, "BF16", 16.0, 2e-3),
    "Q8_0": FileType(7, "Q8_0", 8.5, 0.03),
    "Q6_K": FileType(18, "Q6_K", 6.5625, 0.06),
    "Q5_K_M": FileType(17, "Q5_K", 5.5, 0.4),
    "Q5_K_S": FileType(16, "Q5_K", 5.5, 0.4),
    "Q5_1": FileType(9, "Q5_1", 6.0, 0.4),
    "Q5_0": FileType(8, "Q5_0", 5.5, 0.4),
    "Q4_K_M": FileType(15, "Q4_K", 4.5, 0.4),
    "Q4_K_S": FileType(14, "Q4_K", 4.5, 0.8),
    "Q4_1": FileType(3, "Q4_1", 5.0, 2.0),
    "Q4_0": FileType(2, "Q4_0", 4.5, 2.0),
    "IQ4_NL": FileType(25, "IQ4_NL", 4.5, 2.0),
    "IQ4_XS": FileType(30, "IQ4_XS", 4.25, 2.0),
    "MXFP4_MOE": FileType(38, "MXFP4", 4.25, 2.0),
    "Q3_K_L": FileType(13, "Q3_K", 3.4375, 3.0),
    "Q3_K_M": FileType(12, "Q3_K", 3.4375, 3.0),
    "Q3_K_S": FileType(11, "Q3_K", 3.4375, 3.0),
    "IQ3_M": FileType(27, "IQ3_S", 3.4375, 3.0),
    "IQ3_S": FileType(26, "IQ3_S", 3.4375, 3.0),
    "IQ3_XS": FileType(22, "IQ3_S", 3.4375, 3.0, requires_imatrix=True),
    "IQ3_XXS": FileType(23, "IQ3_XXS", 3.0625, 3.0, requires_imatrix=True),
    "Q2_K": FileType(10, "Q2_K", 2.625, 5.0),
    "Q2_K_S": FileType(21, "Q2_K", 2.625, 5.0, requires_imatrix=True),
    "IQ2_M": FileType(29, "IQ2_S", 2.5625, 5.0, requires_imatrix=True),
    "IQ2_S": FileType(28, "IQ2_XS", 2.3125, 5.0, requires_imatrix=True),
    "IQ2_XS": FileType(20, "IQ2_XS", 2.3125, 5.0, requires_imatrix=True),
    "IQ2_XXS": FileType(19, "IQ2_XXS", 2.0625, 5.0, requires_imatrix=True),
    "TQ2_0": FileType(37, "TQ2_0", 2.0625, 16.0),
    "TQ1_0": FileType(36, "TQ1_0", 1.6875, 16.0),
    "IQ1_M": FileType(31, "IQ1_M", 1.75, 16.0, requires_imatrix=True),
    "IQ1_S": FileType(24, "IQ1_S", 1.5625, 16.0, requires_imatrix=True),
    "Q1_0": FileType(40, "Q1_0", 1.125, 16.0),
}
"""The bounds lie between the KL of rounding and that of a wrong conversion, which is several nats
(rotary halves swapped, a norm left out, another tokenizer). A bound is at least four times the KL
of SmolLM2-135M-Instruct on 1,024 sampled completion tokens (F16 0.000004, Q8_0 0.0051, Q6_K 0.013,
Q5_K_M 0.10, Q4_K_M 0.072), or is interpolated by bits. Rounding costs so small a model more than
larger ones, but may cost a pruned one more still. Types of two bits and fewer ruin models that were
not trained for them: their bounds only exclude files that generate noise."""


def bound_of_bits(bits_per_weight: float) -> float:
    """Return the bound, in nats, of a mix of types: that of the next coarser type."""
    coarser = [one for one in FILE_TYPES.values() if one.bits <= bits_per_weight]
    finest = max(coarser, key=lambda one: (one.bits, one.kl_bound_nats), default=None)
    return finest.kl_bound_nats if finest else max(one.kl_bound_nats for one in FILE_TYPES.values())


def uses_imatrix(name: FileTypeName, setting: Literal["auto", "always", "never"]) -> bool:
    """Return whether a file of a type is made with an importance matrix."""
    if name in BASES or setting == "never":
        return False
    return setting == "always" or FILE_TYPES[name].bits < IMATRIX_BELOW_BITS
