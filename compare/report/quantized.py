"""What quantizing costs as numbers: each file beside the checkpoint it was made from.

In: files as the gguf stage describes them. Out: a typed section of report.json. Knows nothing of
how they were measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from potstill.facts.gguf import GgufFile
from potstill.schema import Value


class QuantizedFile(Value):
    """A GGUF file's figures, named and defined as in the gguf stage's manifest.

    All but sizes and speeds compare its next-token distributions with its checkpoint's.
    """

    name: str
    role: Literal["teacher", "student"]
    type: str
    """Of most of its tensors, or its size if it is a mix."""
    bytes: int
    bits_per_weight: float
    kl_to_checkpoint_nats: float
    kl_standard_error_nats: float
    kl_median_nats: float
    kl_p99_nats: float
    kl_p999_nats: float
    top1_agreement_with_checkpoint: float
    rms_delta_p: float
    perplexity_ratio: float
    prompt_tokens_per_second: float
    decode_tokens_per_second: float
    peak_memory_bytes: int
    on_pareto_front: bool
    """Whether no other file of the same model is both smaller and nearer."""


def quantized_files(files: Iterable[GgufFile]) -> tuple[QuantizedFile, ...]:
    """Return the figures of files, the teacher's first, the largest first."""
    names = set(QuantizedFile.model_fields)
    rows = [QuantizedFile.model_validate(file.model_dump(include=names)) for file in files]
    return tuple(sorted(rows, key=lambda one: (one.role == "student", -one.bytes)))
