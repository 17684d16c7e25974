"""The held-out conversations: what no student was trained on.

In: the finished conversations. Out: those of the test split, always the same in the same order.
Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from potstill.errors import ArtifactError
from potstill.schema import Conversation, Split
from potstill.tables import read_conversations

SPLIT: Split = "test"


def read_held_out(conversations_dir: Path, max_conversations: int) -> list[Conversation]:
    """Return the first conversations of the test split, in stored order.

    Raises:
        ArtifactError: There is none, or a table is damaged.
    """
    held_out = list(islice(_held_out(conversations_dir), max_conversations))
    if not held_out:
        raise ArtifactError(
            "there is no held-out conversation to compare on",
            where=conversations_dir,
            expected=f"at least one conversation of the {SPLIT} split",
            found="none",
            hint="generate more conversations",
        )
    return held_out


def distinct_prompts(held_out: list[Conversation], count: int) -> list[Conversation]:
    """Return the first `count` of different prompts; fewer when there are no more."""
    first_by_prompt: dict[str, Conversation] = {}
    for conversation in held_out:
        first_by_prompt.setdefault(conversation.prompt.prompt_id, conversation)
    return list(first_by_prompt.values())[:count]


def longest_first(held_out: list[Conversation]) -> list[Conversation]:
    """Order by the teacher's first answer, longest first: long answers time decoding best."""
    return sorted(held_out, key=lambda conversation: -conversation.turns[0].num_tokens)


def _held_out(conversations_dir: Path) -> Iterator[Conversation]:
    for path in sorted(conversations_dir.glob("part-*.parquet")):
        yield from read_conversations(path, SPLIT)
