"""One `[[generate.prompts.sources]]` table: where some of the prompts come from.

In: TOML. Out: a frozen, validated `SourceConfig`. Knows nothing of how a source is read.
"""

from __future__ import annotations

from typing import Any, Literal, Self, get_args

from pydantic import Field, model_validator

from potstill.config import Table

Operation = Literal["constraints", "deepen", "concretize", "reasoning", "breadth"]
"""How a seed is rewritten: in depth, in four ways, or in breadth."""
OPERATIONS: tuple[Operation, ...] = get_args(Operation)

ONLY_FOR = {
    "split": "dataset",
    "subset": "dataset",
    "revision": "dataset",
    "system_prompts": "magpie",
    "topics": "magpie",
    "keep_system_prompt": "magpie",
    "operations": "evolve",
}
"""Keys that mean nothing for other kinds of source."""


class SystemPrompt(Table):
    """A system prompt that steers what the teacher writes."""

    text: str = Field(min_length=1)
    """What it says."""
    weight: float = Field(default=1.0, gt=0.0)
    """How often it is drawn, beside the other system prompts and topics."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, given: Any) -> Any:  # noqa: ANN401  (not validated yet)
        return {"text": given} if isinstance(given, str) else given


class SourceConfig(Table):
    """One source of prompts: exactly one of `path`, `dataset` and `kind` says which."""

    path: str | None = None
    """JSONL or Parquet: a file, a directory, a pattern such as `logs/*.jsonl`, or a URL that fsspec
    knows (s3://, gs://, with the file system's package installed)."""
    dataset: str | None = None
    """A Hugging Face data set: its name on the hub, or a directory."""
    kind: Literal["magpie", "evolve"] | None = None
    """Prompts that the teacher writes: `magpie` out of nothing, `evolve` by rewriting the prompts
    of the other sources, those of `evolve` tables before it included: two tables are two rounds."""
    name: str | None = Field(default=None, min_length=1)
    """Source of prompts that do not name one; None takes the file's, data set's or kind's name."""
    weight: float = Field(default=1.0, gt=0.0)
    """Share of the prompts, in proportion to the other sources' weights."""
    license: str | None = Field(default=None, min_length=1)
    """SPDX identifier of the license of prompts that do not name one."""
    split: str | None = Field(default=None, min_length=1)
    """Split of the data set; None takes "train"."""
    subset: str | None = Field(default=None, min_length=1)
    """Configuration of a data set that has several."""
    revision: str | None = Field(default=None, min_length=1)
    """Branch, tag or commit of a data set on the hub; None takes the newest."""
    system_prompts: tuple[SystemPrompt, ...] = ()
    """System prompts before the empty user slot, one drawn for each attempt, so that the teacher
    writes what a user of such an assistant asks; plain texts, or tables with a weight."""
    topics: tuple[str, ...] = ()
    """Fields to ask about, drawn as often as a system prompt of weight 1."""
    keep_system_prompt: bool = False
    """Keep the steering system prompt in the written prompt; it was a means to an end, so not."""
    operations: tuple[Operation, ...] = Field(default=OPERATIONS, min_length=1)
    """How seeds are rewritten, drawn evenly; all, so that prompts get both harder and wider."""

    @property
    def is_written(self) -> bool:
        """Whether the teacher writes its prompts."""
        return self.kind is not None

    @property
    def label(self) -> str:
        """What to call it in messages."""
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
        kind = self.kind or named[0]
        for key, only in ONLY_FOR.items():
            if kind != only and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} is for {only} only; this source is a {kind}")
        return self
