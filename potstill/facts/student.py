"""Facts of the stage `student`."""

from __future__ import annotations

from typing import ClassVar, Literal

from potstill.facts.base import Facts, Record, StageName
from potstill.facts.shared import Fidelity, TeacherIdentity


class Evaluation(Record):
    """The student on a split that it was not trained on, in the order of training."""

    split: Literal["test"] = "test"
    untrained: Fidelity
    offline: Fidelity | None = None
    """After the phase on stored conversations, where another one follows."""
    on_policy: Fidelity | None = None
    """After the phase on its own answers, where another one follows."""
    quantized_plain: Fidelity | None = None
    """Quantized before it was trained for that."""
    trained: Fidelity
    quantized_aware: Fidelity | None = None
    """Quantized after it was trained for that."""


class QuantizationAware(Record):
    """The file type that the student was trained for, and its KL as such a file."""

    type: str
    kl_nats_plain: float | None
    """Before that training."""
    kl_nats_aware: float | None
    """After it."""


class KeptAdapter(Record):
    """An adapter that is the student together with its base, in PEFT's format."""

    DIRECTORY: ClassVar[str] = "adapter"
    """Its directory in the stage's."""

    base_path: str
    """Directory of the base's checkpoint."""
    base_fingerprint: str
    """Hash of it."""


class StudentFacts(Facts):
    """The student, and its fidelity to the teacher."""

    stage: ClassVar[StageName] = "student"

    teacher: TeacherIdentity
    tokenizer_sha256: str
    chat_template_sha256: str
    own_tokenizer: bool
    """Whether the student has a tokenizer of its own."""
    vocab_size: int
    """Rows of the embedding."""
    num_parameters: int
    num_layers: int
    intermediate_size: int | None
    """Neurons of each MLP; None if they differ or the configuration has no such setting."""
    method: str
    """How it was trained, as in `train.method`."""
    removed_layers: tuple[int, ...]
    """Layers of the teacher that were removed."""
    pruned: bool
    improved: bool
    """Whether training lowered the held-out loss."""
    quantization_aware: QuantizationAware | None = None
    adapter: KeptAdapter | None = None
    """None where adapters, if there were any, are merged. The checkpoint is the merged one also
    where the adapter is kept."""
    evaluation: Evaluation
