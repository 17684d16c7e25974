"""What was left out, kept to be read: the row it was, the filter that objected and its reason.

In: rows and reasons. Out: `dropped.parquet`. Knows nothing of filters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from generate.prompts import RawPrompt
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


def count_dropped(path: Path) -> dict[str, int]:
    """Return the number of rows by filter."""
    return dict(Counter(pq.read_table(path, columns=["filter"])["filter"].to_pylist()))


def _row(prompt: RawPrompt) -> dict[str, Any]:
    return {
        "prompt_id": prompt.prompt_id,
        "messages": [message.model_dump() for message in prompt.messages],
        "source": prompt.source,
        "licence": prompt.licence,
        "tools": prompt.tools,
    }
