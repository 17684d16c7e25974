"""The `[task]` table: the one job that the student is for."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from potstill.config import Table
from potstill.task.metrics.config import MetricConfig


class TaskConfig(Table):
    """What the student is for. Every stage reads it from the run."""

    instructions: str = ""
    """System prompt of the teacher: the job, its labels or fields, its rules; empty: none. The
    examples of `num_shots` replace `{examples}` in it, or follow at its end."""
    student_instructions: str | None = None
    """System prompt of the student. None: the teacher's without examples; empty: none, so that the
    student learns the instructions instead of reading them with every request (prompt
    distillation)."""
    tools: Path | None = None
    """JSON file with a list of tools, as OpenAI's API spells them."""
    student_sees_tools: bool = True
    """Whether the tools are in the student's prompt. A student that has learned them needs none."""
    answer_schema: Path | None = None
    """JSON file with the JSON schema that every answer must fit."""
    examples: Path | None = None
    """JSONL file of prompts, with known answers or without: seeds of new prompts, and examples in
    the teacher's prompt where the answer is known."""
    num_shots: int = Field(default=0, ge=0)
    """Examples with known answers in the teacher's prompt; the student's prompt has none."""
    shots: Literal["same", "nearest"] = "same"
    """Which ones: `same` for every prompt, so that the engine reads them once; or those `nearest`
    to each prompt by their words (TF-IDF), better and slower."""
    references: Path | None = None
    """JSONL file of prompts with known answers, to measure the student; no stage trains on them."""
    metrics: tuple[MetricConfig, ...] = ()
    """What makes an answer good; the first one decides, the others are reported."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.num_shots and self.examples is None:
            raise ValueError("num_shots needs examples")
        if self.references is not None and not self.metrics:
            raise ValueError("references need metrics to measure with")
        return self
