"""Facts of the stage `task`."""

from __future__ import annotations

from typing import ClassVar

from potstill.facts.base import Facts, StageName


class TaskFacts(Facts):
    """How much of the task is known."""

    stage: ClassVar[StageName] = "task"

    num_examples: int
    num_known: int
    """Examples with known answers."""
    num_references: int
    num_tools: int
    metrics: tuple[str, ...]
    """Names of the metrics; the first one decides."""
