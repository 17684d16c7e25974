"""Tables of `[[task.metrics]]`, one class a kind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from potstill.config import Table
from potstill.task.functions import FUNCTION_PATTERN


class _MetricConfig(Table):
    name: str | None = Field(default=None, min_length=1)
    """Its name in reports; None: its kind."""


class LabelConfig(_MetricConfig):
    """The answer's label is the known one. Reported with macro-F1 and a confusion matrix."""

    kind: Literal["label"] = "label"
    field: str | None = None
    """Dotted path of the label in an answer that is JSON; None: the answer is the label."""
    labels: tuple[str, ...] = ()
    """All labels, in the order of the confusion matrix; empty: those of the known answers."""


class JsonConfig(_MetricConfig):
    """The answer is one JSON value."""

    kind: Literal["json"] = "json"


class SchemaConfig(_MetricConfig):
    """The answer is JSON that fits `task.answer_schema`."""

    kind: Literal["schema"] = "schema"


class FieldsConfig(_MetricConfig):
    """The answer's fields are the known answer's."""

    kind: Literal["fields"] = "fields"
    average: Literal["f1", "exact", "none_invented"] = "f1"
    """`f1`: harmonic mean of precision and recall over fields; an invented field costs precision.
    `exact`: 1 when all fields agree. `none_invented`: 1 when the answer has no field that the known
    answer lacks, whatever the values are."""
    fields: tuple[str, ...] = ()
    """Dotted paths that count; empty: all."""
    ignore_case: bool = True
    """Compare text without case and surplus white space."""


class ToolCallsConfig(_MetricConfig):
    """The answer's calls are the known ones, in any order; no call where none is known."""

    kind: Literal["tool_calls"] = "tool_calls"
    ignore_case: bool = False
    """Compare text in arguments without case and surplus white space."""


class ExactConfig(_MetricConfig):
    """The answer's text is the known one."""

    kind: Literal["exact"] = "exact"
    ignore_case: bool = True
    """Compare without case and surplus white space."""


class RegexConfig(_MetricConfig):
    """A pattern is found in the answer."""

    kind: Literal["regex"] = "regex"
    pattern: str
    """Regular expression of Python's `re`, searched anywhere in the answer."""

    @model_validator(mode="after")
    def _compiles(self) -> Self:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"pattern is not a regular expression: {error}") from error
        return self


class NumericConfig(_MetricConfig):
    """The last number of the answer is that of the known answer."""

    kind: Literal["numeric"] = "numeric"
    relative_tolerance: float = Field(default=1e-6, ge=0.0)
    """Largest relative difference that counts as equal; 1e-6 ignores how decimals are written."""


class SqlConfig(_MetricConfig):
    """The answer's query returns the rows of the known query, in SQLite."""

    kind: Literal["sql"] = "sql"
    database: Path
    """SQLite file, opened read-only."""
    timeout_seconds: float = Field(default=2.0, gt=0.0)
    """Longest a query may run; one that takes longer is wrong."""
    max_rows: int = Field(default=10_000, ge=1)
    """Most rows a query may return; one that returns more is wrong."""


class GroundedConfig(_MetricConfig):
    """The answer is JSON with an answer and a quotation from the context, or abstains."""

    kind: Literal["grounded"] = "grounded"
    answer_field: str = "answer"
    """Dotted path of the answer; null or absent is an abstention."""
    quote_field: str = "quote"
    """Dotted path of the quotation, which must occur in the messages before the answer."""


class FunctionConfig(_MetricConfig):
    """A function of the user's."""

    kind: Literal["function"] = "function"
    function: str = Field(pattern=FUNCTION_PATTERN)
    """`module:function` or `file.py:function`, called with the answer's text, the known answer's
    text or None, and the messages as dictionaries; returns a number from 0 to 1. Raising scores
    0."""


MetricConfig = Annotated[
    LabelConfig
    | JsonConfig
    | SchemaConfig
    | FieldsConfig
    | ToolCallsConfig
    | ExactConfig
    | RegexConfig
    | NumericConfig
    | SqlConfig
    | GroundedConfig
    | FunctionConfig,
    Field(discriminator="kind"),
]
