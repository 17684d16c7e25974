"""What was left out, kept to be read: the row it was, the filter that objected and its reason.

In: rows and reasons. Out: `dropped.parquet`. Knows nothing of filters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from generate.sources.raw_prompt import RawPrompt
from potstill.facts.conversations import ConversationsFacts
from potstill.tables import PROMPT_SCHEMA, write_rows

DROPPED_NAME = "dropped.parquet"
_WHY = [pa.field("filter", pa.string()), pa.field("reason", pa.string())]


def dropped_schema(schema: pa.Schema) -> pa.Schema:
    """Return the schema of rows that were left out: their own columns, `filter` and `reason`."""
    return pa.schema([*schema, *_WHY])


def with_reasons(rows: pa.Table, filters: list[str], reasons: list[str]) -> pa.Table:
    """Add to rows why they were left out."""
    for field, values in zip(_WHY, (filters, reasons), strict=True):
        rows = rows.append_column(field, pa.array(values, pa.string()))
    return rows


def write_dropped_prompts(
    directory: Path, dropped: Iterable[tuple[RawPrompt, str, str]]
) -> dict[str, int]:
    """Write prompts that are not asked; return their number by filter.

    Args:
        dropped: Each with its filter and reason. They have no cluster and are in no split.

    Raises:
        OSError: The file cannot be written.
    """
    rows = [_row(prompt) | {"filter": name, "reason": reason} for prompt, name, reason in dropped]
    write_rows(directory / DROPPED_NAME, dropped_schema(PROMPT_SCHEMA), rows)
    return dict(Counter(row["filter"] for row in rows))


def counts_by_filter(facts: ConversationsFacts) -> list[tuple[str, int, int]]:
    """Return each filter with the prompts and the conversations it left out."""
    prompts, conversations = facts.dropped_prompts, facts.dropped_conversations
    return [
        (name, prompts.get(name, 0), conversations.get(name, 0))
        for name in dict.fromkeys([*prompts, *conversations])
    ]


def format_counts(counts: Mapping[str, int]) -> str:
    """Say what was left out: the number of each filter."""
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"


def _row(prompt: RawPrompt) -> dict[str, Any]:
    return {
        "prompt_id": prompt.prompt_id,
        "messages": [message.model_dump() for message in prompt.messages],
        "source": prompt.source,
        "license": prompt.license,
        "tools": prompt.tools,
    }
