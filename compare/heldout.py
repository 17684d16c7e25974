"""The held-out conversations: what no student was trained on.

In: the finished conversations. Out: rows of the test split, always the same ones in the same order.
Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from potstill.errors import ArtifactError
from potstill.tables import CONVERSATION_SCHEMA, read_rows

SPLIT = "test"
COLUMNS = [
    "prompt_id",
    "split",
    "messages",
    "prompt_token_ids",
    "completion_token_ids",
    "sampled_logprobs",
    "num_top_logprobs",
    "top_token_ids",
    "top_logprobs",
]

Row = dict[str, Any]


def read_held_out(conversations_dir: Path, max_conversations: int) -> list[Row]:
    """Return the first conversations of the test split, in stored order.

    Raises:
        ArtifactError: There is none, or a table is damaged.
    """
    rows = list(islice(_test_rows(conversations_dir), max_conversations))
    if not rows:
        raise ArtifactError(
            "there is no held-out conversation to compare on",
            where=conversations_dir,
            expected=f"at least one conversation of the {SPLIT} split",
            found="none",
            hint="generate more conversations",
        )
    return rows


def distinct_prompts(rows: list[Row], count: int) -> list[Row]:
    """Return the first `count` rows of different prompts; fewer when there are no more."""
    first_by_prompt: dict[str, Row] = {}
    for row in rows:
        first_by_prompt.setdefault(row["prompt_id"], row)
    return list(first_by_prompt.values())[:count]


def longest_first(rows: list[Row]) -> list[Row]:
    """Order rows by the teacher's completion, longest first: long answers time decoding best."""
    return sorted(rows, key=lambda row: -len(row["completion_token_ids"]))


def _test_rows(conversations_dir: Path) -> Iterator[Row]:
    for path in sorted(conversations_dir.glob("part-*.parquet")):
        for row in read_rows(path, CONVERSATION_SCHEMA, COLUMNS):
            if row["split"] == SPLIT:
                yield row
