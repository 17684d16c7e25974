"""One `[[generate.prompts.sources]]` table: a source of prompts."""

from __future__ import annotations

from typing import Any, Literal, Self, get_args

from pydantic import Field, model_validator

from generate.sources.task_config import TaskKeys
from potstill.config import Table

Operation = Literal["constraints", "deepen", "concretize", "reasoning", "breadth"]
"""The rewriting of a seed: in depth, in four ways, or in breadth."""
OPERATIONS: tuple[Operation, ...] = get_args(Operation)

ONLY_FOR = {
    "split": "dataset",
    "subset": "dataset",
    "revision": "dataset",
    "system_prompts": "magpie",
    "topics": "magpie",
    "keep_system_prompt": "magpie",
    "operations": "evolve",
    "answer": "decline",
    "rewordings": "decline",
    **dict.fromkeys(TaskKeys.model_fields, "task"),
}
"""Keys that apply to one kind of source only."""


class SystemPrompt(Table):
    """A system prompt that steers the written prompts."""

    text: str = Field(min_length=1)
    """The system prompt."""
    weight: float = Field(default=1.0, gt=0.0)
    """Relative frequency among the system prompts and topics."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, given: Any) -> Any:  # noqa: ANN401  (not validated yet)
        return {"text": given} if isinstance(given, str) else given


class SourceConfig(TaskKeys):
    """One source of prompts, with exactly one of `path`, `dataset` and `kind`."""

    path: str | None = None
    """JSONL or Parquet: a file, a directory, a pattern such as `logs/*.jsonl`, or a URL that fsspec
    supports (s3://, gs://, with the file system's package installed)."""
    dataset: str | None = None
    """A Hugging Face data set: its name on the hub, or a directory."""
    kind: Literal["magpie", "evolve", "task", "decline"] | None = None
    """Prompts that the teacher writes: `magpie` from its empty user turn, `evolve` by rewriting the
    prompts of the other sources, including earlier `evolve` tables: two tables are two rounds;
    `task` inputs for the run's `[task]`, after its examples. `decline` is harmful requests that
    come with potstill, about 640, which are all answered with `answer`."""
    answer: str | None = Field(default=None, min_length=1)
    """The student's answer to harmful requests, in the form of the task's answers; with
    tools it may be a call, `{"name": "escalate", "arguments": {}}`. The teacher is not asked."""
    rewordings: int = Field(default=0, ge=0, le=5)
    """How many rewordings of each harmful request to add: the same act, asked for in another
    form."""
    name: str | None = Field(default=None, min_length=1)
    """Source name of prompts without one. None: the name of the file, data set or kind."""
    weight: float = Field(default=1.0, gt=0.0)
    """Relative share of the prompts."""
    license: str | None = Field(default=None, min_length=1)
    """SPDX identifier of the license of prompts without one."""
    general: bool = False
    """Prompts that are not of the task: teacher and student are asked without its instructions,
    examples and tools, so that the student keeps talking. Their source begins with `general/`."""
    split: str | None = Field(default=None, min_length=1)
    """Split of the data set. None: "train"."""
    subset: str | None = Field(default=None, min_length=1)
    """Configuration of a data set with several."""
    revision: str | None = Field(default=None, min_length=1)
    """Branch, tag or commit of a data set on the hub. None: the newest."""
    system_prompts: tuple[SystemPrompt, ...] = ()
    """System prompts before the empty user turn, one drawn per attempt, so that the teacher writes
    what users of such an assistant ask; plain texts, or tables with a weight."""
    topics: tuple[str, ...] = ()
    """Topics of questions, each with the frequency of a system prompt of weight 1."""
    keep_system_prompt: bool = False
    """Keep the steering system prompt in the written prompt."""
    operations: tuple[Operation, ...] = Field(default=OPERATIONS, min_length=1)
    """Kinds of rewriting, drawn uniformly; all by default, for harder and more varied prompts."""

    @property
    def is_written(self) -> bool:
        """Whether the teacher writes its prompts."""
        return self.kind not in (None, "decline")

    @property
    def label(self) -> str:
        """Name of the source in messages."""
        return str(self.name or self.path or self.dataset or self.kind)

    @model_validator(mode="after")
    def _is_one_source(self) -> Self:
        named = [key for key in ("path", "dataset", "kind") if getattr(self, key) is not None]
        if len(named) != 1:
            raise ValueError(
                f"exactly one of path, dataset and kind; found {' and '.join(named) or 'none'}"
            )
        if "" in (self.path, self.dataset, *self.topics):
            raise ValueError("path, dataset and topics may not be empty texts")
        if self.kind == "task" and self.general:
            raise ValueError("general prompts are not of the task; leave out general or kind")
        if self.kind == "decline" and (self.answer is None or self.name or self.general):
            raise ValueError("decline needs an answer, and neither name nor general")
        kind = self.kind or named[0]
        for key, only in ONLY_FOR.items():
            if kind != only and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} is for {only} only; this source is a {kind}")
        return self
