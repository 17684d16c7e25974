"""Dropped rows, stored in `dropped.parquet` with the filter and its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from generate.sources.raw_prompt import DroppedPrompt, RawPrompt
from potstill.errors import ArtifactError, first_line
from potstill.facts.conversations import ConversationsFacts
from potstill.tables import PROMPT_SCHEMA, write_rows

DROPPED_NAME = "dropped.parquet"
_WHY = [pa.field("filter", pa.string()), pa.field("reason", pa.string())]


def dropped_schema(schema: pa.Schema) -> pa.Schema:
    """Return the schema of dropped rows: their own columns, `filter` and `reason`."""
    return pa.schema([*schema, *_WHY])


def with_reasons(rows: pa.Table, filters: list[str], reasons: list[str]) -> pa.Table:
    """Add the columns `filter` and `reason` to rows."""
    for field, values in zip(_WHY, (filters, reasons), strict=True):
        rows = rows.append_column(field, pa.array(values, pa.string()))
    return rows


def write_dropped_prompts(directory: Path, dropped: Iterable[DroppedPrompt]) -> dict[str, int]:
    """Write dropped prompts; return their number by filter.

    Args:
        dropped: They have neither cluster nor split.

    Raises:
        OSError: The file cannot be written.
    """
    rows = [_row(one.prompt) | {"filter": one.filter, "reason": one.reason} for one in dropped]
    write_rows(directory / DROPPED_NAME, dropped_schema(PROMPT_SCHEMA), rows)
    return dict(Counter(row["filter"] for row in rows))


def read_dropped(directory: Path, columns: list[str]) -> list[dict[str, Any]]:
    """Return columns of the dropped rows of a stage; none where it is not finished.

    Raises:
        ArtifactError: The table is damaged.
    """
    path = directory / DROPPED_NAME
    if not path.is_file():
        return []
    try:
        rows: list[dict[str, Any]] = pq.read_table(path, columns=columns).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise ArtifactError(
            "the dropped rows cannot be read",
            where=path,
            found=first_line(error),
            hint="make the stage again with --force",
        ) from error
    return rows


def counts_by_filter(facts: ConversationsFacts) -> list[tuple[str, int, int]]:
    """Return each filter with the number of prompts and of conversations it dropped."""
    prompts, conversations = facts.dropped_prompts, facts.dropped_conversations
    return [
        (name, prompts.get(name, 0), conversations.get(name, 0))
        for name in dict.fromkeys([*prompts, *conversations])
    ]


def format_counts(counts: Mapping[str, int]) -> str:
    """Format the number of dropped rows by filter."""
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"


def _row(prompt: RawPrompt) -> dict[str, Any]:
    return {
        "prompt_id": prompt.prompt_id,
        "messages": [message.model_dump() for message in prompt.messages],
        "source": prompt.source,
        "license": prompt.license,
        "tools": prompt.tools,
        "known": prompt.known,
    }
