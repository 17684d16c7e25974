"""Facts of the stage `baseline`."""

from __future__ import annotations

from typing import ClassVar

from potstill.facts.base import Facts, Record, StageName
from potstill.facts.gguf import GgufFile
from potstill.facts.student import Evaluation


class TrainedBaseline(Record):
    """The student's start, trained on the known answers of the task's examples alone."""

    num_examples: int
    """Known answers that it was trained on."""
    num_epochs: float
    """Passes over them."""
    tokenizer_sha256: str
    chat_template_sha256: str
    num_parameters: int
    evaluation: Evaluation | None
    """On the known answers of the references; None where there are none."""


class BaselineFacts(TrainedBaseline, Facts):
    """The trained baseline and its verified file."""

    stage: ClassVar[StageName] = "baseline"

    file: GgufFile
